"""A scrape of this process's metrics every second, as a Prometheus server does it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self
from urllib.request import urlopen

from flashactor.telemetry.metrics import serve

PERIOD_SECONDS = 1.0


class Scraping:
    """Serves the metrics and fetches them over HTTP, at once and then each second, while it is entered.

    Attributes:
        scrapes: pages that came with the actors' requests in them.
    """

    def __init__(self) -> None:
        self.scrapes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> Self:
        self._server = serve(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._server.close()

    def _scrape(self) -> None:
        while True:
            with urlopen(f"http://127.0.0.1:{self._server.port}/metrics", timeout=10) as page:
                self.scrapes += b"\nflashactor_requests_total{" in page.read()
            if self._over.wait(PERIOD_SECONDS):
                return
