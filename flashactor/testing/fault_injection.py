"""An executor around another one that fails as a device fails."""

from __future__ import annotations

from functools import partial

from flashactor.errors import CompileError
from flashactor.executors.base import Done, Executor, Marker, Outcome, Work
from flashactor.executors.cuda_errors import poisoned_error, result_error
from flashactor.testing.faults import Fault, FaultKind, FaultPlan, RandomFaults
from flashactor.testing.line import Line
from flashactor.testing.wrapper import Wrapper

_RESULTS = {
    FaultKind.FAIL_LAUNCH: "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    FaultKind.OUT_OF_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY",
    FaultKind.POISON: "CUDA_ERROR_ILLEGAL_ADDRESS",
}


class FaultInjectingExecutor(Wrapper):
    """Passes work on to an executor, but for what is planned to fail; the errors are those of ``cuda``.

    ``close`` ends whatever hangs: it answers what was launched before the first launch that hangs, and leaves
    that one and those behind it unanswered, as a device would.

    Attributes:
        plan: what happened so far, in ``plan.injected``.
    """

    def __init__(
        self,
        inner: Executor,
        *faults: Fault | RandomFaults,
        plan: FaultPlan | None = None,
        renewable: bool | None = None,
    ) -> None:
        """Wrap an executor.

        Args:
            faults: what goes wrong.
            plan: faults whose count other executors share, instead; see ``FaultPlan``.
            renewable: whether another executor can go on after ``Fault.poison``, as on a context of its own;
                default: what ``inner`` says.
        """
        super().__init__(inner)
        if renewable is not None:
            self.renewable = renewable
        self.plan = FaultPlan(*faults) if plan is None else plan
        self._line = Line()
        self._poisoned_by: object = None

    def prepare(self, work: Work) -> Work:
        """Prepare work, unless its kernel is one that does not compile.

        Raises:
            CompileError: as planned. ContextPoisonedError: after a poison.
        """
        if self._poisoned_by is not None:
            raise poisoned_error(f"{self._poisoned_by} earlier")
        if self.plan.next_compile() is not None:
            raise _compile_error(work.kernel_name)
        return self._inner.prepare(work)

    def submit(self, work: Work, done: Done) -> Marker | None:
        """Launch work, or have happen to it what is planned."""
        if self._poisoned_by is not None:
            done(Outcome(error=poisoned_error(f"{self._poisoned_by} earlier"), refused=True))
            return None
        fault = self.plan.next_launch()
        kind = None if fault is None else fault.kind
        if kind is FaultKind.CRASH:
            raise RuntimeError(f"injected: the executor broke on {work.kernel_name}")
        if kind in _RESULTS:
            error = result_error(_RESULTS[kind], f"launching {work.kernel_name} (injected)")
            if kind is FaultKind.POISON:
                self._poisoned_by = error.got
            done(Outcome(error=error))
            return None
        place = self._line.enter()
        if kind is FaultKind.HANG:
            return None
        seconds = 0.0 if fault is None else fault.seconds

        def end(outcome: Outcome) -> None:
            self._line.leave(place, partial(done, outcome), seconds)

        return self._inner.submit(work, end)

    def close(self) -> None:
        """Finish what can be finished."""
        self._inner.close()
        self._line.close()

    def abandon(self) -> None:
        """Answer nothing any more."""
        self._inner.abandon()
        self._line.abandon()


def _compile_error(kernel_name: str) -> CompileError:
    return CompileError(
        field="kernel",
        got=f"an injected error in {kernel_name}",
        expected="a source that compiles",
        remedy="none: the test's faults say so",
        log=f"{kernel_name}(1): error: injected",
        source_line=f"{kernel_name}(1)",
    )
