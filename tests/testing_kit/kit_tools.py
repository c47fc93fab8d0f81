"""Work as an actor would give it to an executor, and what came back."""

from flashactor import DType, Fa2BwdRequest, Fa2FwdRequest, MaskKind, SmArch
from flashactor.executors.base import Executor, Work

SMALL = Fa2FwdRequest(SmArch.SM80, DType.BF16, 64, mask=MaskKind.causal())
LARGE = Fa2FwdRequest(SmArch.SM90A, DType.F16, 128, softcap=30.0)
BACKWARD = Fa2BwdRequest(SmArch.SM80, DType.BF16, 64)


def work_of(request):
    return Work(request, *request.resolve(None))


class Answers:
    """Outcomes in the order of their arrival."""

    def __init__(self):
        self.outcomes = []

    def submit(self, executor, *requests):
        """Prepare and launch requests; what an actor does without its thread."""
        for request in requests:
            executor.submit(executor.prepare(work_of(request)), self.outcomes.append)

    @property
    def outs(self):
        """The ``out`` of each outcome, or its error's type."""
        return [
            outcome.outputs.out if outcome.error is None else type(outcome.error) for outcome in self.outcomes
        ]


class ManualExecutor(Executor):
    """Answers when the test says so, in any order."""

    name = "manual"

    def __init__(self):
        self.dones = []
        self.abandoned = False
        self.closed = False

    def submit(self, work, done):
        self.dones.append(done)

    def close(self):
        self.closed = True

    def abandon(self):
        self.abandoned = True
