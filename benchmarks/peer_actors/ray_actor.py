"""How long asks of a Ray actor take.

    pip install ray  # in an environment of its own
    python -m benchmarks.peer_actors.ray_actor --messages 2000

Prints one JSON document, in microseconds. The actor returns the integer that it gets. It is an ordinary one,
in a process of its own on this machine, as every actor of Ray is.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import ray

from benchmarks.peer_actors.measuring import Running, run_peer

OBJECT_STORE_BYTES = 100 * 2**20


class Echo:
    """Returns what it gets."""

    def echo(self, value: int) -> int:
        """The value."""
        return value


async def actors() -> AsyncIterator[Running]:
    """The one actor."""
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        handle: Any = ray.remote(Echo).remote()
        send = partial(handle.echo.remote, 1)
        yield Running("in another process", send, send)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    run_peer("ray", __doc__, actors)
