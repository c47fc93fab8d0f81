"""An executor that passes everything on to another one."""

from __future__ import annotations

from flashactor.errors import RequestError
from flashactor.executors.base import Done, Executor, Marker, Work


class Wrapper(Executor):
    """Looks and acts like the executor inside, but for what subclasses change."""

    def __init__(self, inner: Executor) -> None:
        """
        Raises:
            RequestError: ``inner`` is no executor.
        """
        if not isinstance(inner, Executor):
            raise RequestError(
                field="inner",
                got=repr(inner),
                expected="an Executor",
                remedy="pass one that exists, such as ScriptedExecutor()",
            )
        self.name = inner.name
        self.arch = inner.arch
        self.renewable = inner.renewable
        self.waits_on_device = inner.waits_on_device
        self._inner = inner

    def prepare(self, work: Work) -> Work:
        """As inside."""
        return self._inner.prepare(work)

    def submit(self, work: Work, done: Done) -> Marker | None:
        """As inside."""
        return self._inner.submit(work, done)

    def close(self) -> None:
        """As inside."""
        self._inner.close()

    def abandon(self) -> None:
        """As inside."""
        self._inner.abandon()
