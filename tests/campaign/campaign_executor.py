"""Executors whose kernels end when somebody says so, and the stage from which that is said."""

import threading
from collections.abc import Callable

from campaign_record import Record
from campaign_schedule import ActorPlan, End, Prepare, Schedule, Submit

from flashactor.errors import ContextPoisonedError, OutOfMemoryError, UnsupportedHeadDimError
from flashactor.executors.base import Done, Executor, Outcome, Outputs, Work


class StagedWork(Work):
    """Work that becomes ready when the stage says so."""

    __slots__ = ("_callbacks", "_ready", "number")

    def __init__(self, work: Work, number: int, *, ready: bool) -> None:
        super().__init__(work.request, work.key, work.kernel_name, work.stream)
        self.number = number
        self._ready = ready
        self._callbacks: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        return self._ready

    def when_ready(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)
        if self._ready:
            callback()

    def become_ready(self) -> None:
        self._ready = True
        for callback in self._callbacks:
            callback()


class NumberedMarker:
    """The end of a message's work in a stream."""

    def __init__(self, number: int) -> None:
        self.number = number

    def wait_on(self, stream: int) -> None:
        raise AssertionError("no stream of a campaign is waited on")


class Crash(Exception):  # noqa: N818  # not an error of flashactor's
    """What an executor should not raise."""


def number_of(work: Work) -> int:
    """The number of a message, which travels as the softmax scale of its request."""
    return int(work.request.softmax_scale or 0) - 1


def poisoned() -> ContextPoisonedError:
    """The error of a context that is lost."""
    return ContextPoisonedError("context", "a sticky error", "none", "start again")


class Stage:
    """Where all executors of one actor's life play, one after the other; thread-safe.

    Attributes:
        open: whether everything that is launched, or waits to be ready, goes on by itself from now on.
    """

    def __init__(self, record: Record, schedule: Schedule, actor: int) -> None:
        self.record, self.schedule, self.actor = record, schedule, actor
        self.plan: ActorPlan = schedule.actors[actor]
        self.open = False
        self.unstuck = threading.Event()
        self.lock = threading.RLock()
        self.late: list[StagedWork] = []
        self.present: StagedExecutor | None = None
        self.orphans: list[tuple[StagedExecutor, int, Done]] = []
        self._made = self._failures_to_make = 0

    def make(self) -> "StagedExecutor":
        """The next executor."""
        with self.lock:
            if self._failures_to_make and self._made:
                self._failures_to_make -= 1
                self.record.add("not made", self.actor)
                raise Crash("the executor cannot be made")
            self._made += 1
            self.record.add("made", self._made, actor=self.actor)
            self.present = StagedExecutor(self, self._made)
            return self.present

    def fail_to_make(self) -> None:
        """Let the next executor fail to be made."""
        with self.lock:
            self._failures_to_make += 1

    def end_kernel(self, index: int, how: End) -> bool:
        """End one of the kernels that run; False if there is none."""
        with self.lock:
            executor = self.present
            if executor is None or not executor.running:
                return False
            number = sorted(executor.running)[index % len(executor.running)]
            done = executor.running.pop(number)
        executor.end(number, done, how)
        return True

    def end_orphan(self) -> None:
        """End a kernel that nobody waits for any more."""
        with self.lock:
            if not self.orphans:
                return
            executor, number, done = self.orphans.pop(0)
        executor.end(number, done, End.COMPLETE)

    def lose_context(self) -> None:
        """Let the present executor refuse everything."""
        with self.lock:
            if self.present is not None:
                generation = self.present.generation
                self.record.add("lost", generation, actor=self.actor, generation=generation)
                self.present.lost = True

    def become_ready(self, index: int) -> bool:
        """Let something be ready; False if nothing waits."""
        with self.lock:
            if not self.late:
                return False
            work = self.late.pop(index % len(self.late))
        work.become_ready()
        self.record.add("ready", work.number, actor=self.actor)
        return True

    def open_up(self) -> None:
        """Let everything go on from now on."""
        with self.lock:
            self.open = True
        self.unstuck.set()
        while self.become_ready(0):
            pass
        while self.end_kernel(0, End.COMPLETE):
            pass


class StagedExecutor(Executor):
    """One of the executors of an actor. It checks nothing: the record is judged later.

    Attributes:
        running: what is launched and not done.
        lost: whether its context is lost, so that nothing more is launched, and nothing ends well.
    """

    name = "staged"

    def __init__(self, stage: Stage, generation: int) -> None:
        self.stage, self.generation = stage, generation
        self.renewable = stage.plan.renewable
        self.waits_on_device = stage.plan.on_device
        self.running: dict[int, Done] = {}
        self.lost = self._ended = False

    def prepare(self, work: Work) -> Work:
        stage, number = self.stage, number_of(work)
        how = stage.schedule.prepare.get(number, Prepare.READY)
        with stage.lock:
            late = how is Prepare.LATE and not stage.open
            staged = StagedWork(work, number, ready=not late)
            if late:
                stage.late.append(staged)
            self._note("prepared", number, how=how, ready=not late)
        if self.lost and stage.plan.finds_loss_early:
            raise poisoned()
        if how is Prepare.STUCK:
            stage.unstuck.wait()
        if how is Prepare.ERROR:
            raise UnsupportedHeadDimError("head_dim", "what the schedule says", "another", "ask for another")
        if how is Prepare.CRASH:
            raise Crash("prepare crashes")
        return staged

    def submit(self, work: Work, done: Done) -> NumberedMarker | None:
        stage, number = self.stage, number_of(work)
        how = stage.schedule.submit.get(number, Submit.INLINE)
        markers = tuple(marker.number for marker in work.after)  # type: ignore[attr-defined]
        with stage.lock:
            refused = self.lost
            self._note("submitted", number, how=how, refused=refused, markers=markers, seen=work.ready)
        if refused:
            done(Outcome(error=poisoned(), refused=True))
            return None
        if how is Submit.CRASH:
            raise Crash("submit crashes")
        if how is Submit.STUCK:
            stage.unstuck.wait()
        self._launch(number, how, done)
        self._note("launched", number)
        return NumberedMarker(number) if stage.plan.on_device else None

    def close(self) -> None:
        with self.stage.lock:
            self._ended = True
            self._note("closed", self.generation, running=sorted(self.running))
            running, self.running = self.running, {}
        for number, done in running.items():
            self.end(number, done, End.COMPLETE)

    def abandon(self) -> None:
        with self.stage.lock:
            self._ended = True
            self._note("abandoned", self.generation)
            self.stage.orphans += [(self, number, done) for number, done in self.running.items()]
            self.running = {}

    def end(self, number: int, done: Done, how: End) -> None:
        """A kernel ends, and the actor hears of it."""
        if how is End.POISON:
            self._note("lost", self.generation)
            self.lost = True
        lost = self.lost  # by now; another kernel may lose it in between
        outcome = Outcome(outputs=Outputs(out=number))
        if lost:
            outcome = Outcome(error=poisoned())
        elif how is End.FAIL:
            outcome = Outcome(error=OutOfMemoryError("memory", "too little", "more", "free some"))
        self._note("done", number, how="lost" if lost else how.value)
        done(outcome)
        if how is End.TWICE:
            done(outcome)

    def _launch(self, number: int, how: Submit, done: Done) -> None:
        with self.stage.lock:
            ends_here = self.stage.open or how is not Submit.HOLD
            if not ends_here:
                if self._ended:
                    self.stage.orphans.append((self, number, done))
                else:
                    self.running[number] = done
                return
        ends = {Submit.FAIL: End.FAIL, Submit.POISON: End.POISON}
        self.end(number, done, ends.get(how, End.COMPLETE))

    def _note(self, what: str, about: int, **detail: object) -> None:
        actor, thread = self.stage.actor, threading.get_ident()
        self.stage.record.add(what, about, actor=actor, generation=self.generation, thread=thread, **detail)
