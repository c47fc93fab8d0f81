"""Random schedules: what several threads, an event loop and the kernels of one or two actors do.

A schedule is data, made of a seed alone; it prints as what it does.
"""

import random
from dataclasses import dataclass
from enum import Enum

THREADS = 3
CALLERS = (None, "a", "b")
PRIORITIES = (0, 0, 0, 0, 1, -1)


class Prepare(Enum):
    """What the executor makes of a message that is admitted."""

    READY = "ready"
    LATE = "late"  # ready when the stage says so
    ERROR = "error"
    CRASH = "crash"  # an exception that no executor should raise
    STUCK = "stuck"  # it does not return until the stage says so


class Submit(Enum):
    """What the executor makes of a message that is launched."""

    HOLD = "hold"  # it ends when the stage says so
    INLINE = "inline"  # it is done before submit returns
    FAIL = "fail"  # likewise, with an error
    CRASH = "crash"  # submit raises
    POISON = "poison"  # likewise done, and the context is lost
    STUCK = "stuck"  # submit does not return until the stage says so


class End(Enum):
    """How a kernel that is held ends."""

    COMPLETE = "complete"
    TWICE = "complete twice"
    FAIL = "fail"
    POISON = "poison"


class Ending(Enum):
    """How a run is brought to its end."""

    FINISH = "finish"  # all kernels end, all is answered, then the actors stop
    DRAIN = "drain"  # the actors stop, then all kernels end
    ABORT = "abort"  # the actors are stopped while kernels run
    TIMEOUT = "timeout"  # stop waits for less time than the kernels take


@dataclass(frozen=True)
class ActorPlan:
    """An actor, and the executors that it gets."""

    max_in_flight: int
    mailbox_size: int
    overflow: str
    max_restarts: int
    hang_ms: int | None
    renewable: bool
    finds_loss_early: bool  # whether prepare raises when the context is lost
    on_device: bool  # its executors' work can wait for markers, and has some


@dataclass(frozen=True)
class Ask:
    """Ask for one message, or with ``ask_many`` for several; in the event loop, in a task that awaits it."""

    numbers: tuple[int, ...]
    actor: int
    caller: str | None
    priority: int
    timeout_ms: int | None
    after: tuple[int, ...]  # messages, as far as they were asked by then
    tell: bool = False


@dataclass(frozen=True)
class Cancel:
    """Cancel a message; in the event loop, the task that awaits it, if there is one."""

    number: int


@dataclass(frozen=True)
class OnDone:
    """Leave a callback that does something on the thread that answers."""

    number: int
    action: str  # "stop", "abort", "ask", "result"
    actor: int
    other: int  # the message that it asks for, or whose result it waits for


@dataclass(frozen=True)
class Wait:
    """Wait for a reply for a while."""

    number: int
    ms: int


@dataclass(frozen=True)
class Pause:
    """Let time pass."""

    ms: int


@dataclass(frozen=True)
class Stop:
    """Stop an actor."""

    actor: int
    drain: bool
    timeout_ms: int


@dataclass(frozen=True)
class Stats:
    """Look at the counts of an actor."""

    actor: int


@dataclass(frozen=True)
class EndKernel:
    """Of the kernels that run, the oldest or a later one ends."""

    actor: int
    index: int
    how: End


@dataclass(frozen=True)
class EndOrphan:
    """A kernel of an executor that was given up ends."""

    actor: int


@dataclass(frozen=True)
class LoseContext:
    """The context of the executor is lost; it says so when it is given the next message."""

    actor: int


@dataclass(frozen=True)
class BecomeReady:
    """What one message waits for, the oldest or a later one, is there."""

    actor: int
    index: int


@dataclass(frozen=True)
class FailToMake:
    """The next executor of an actor cannot be made."""

    actor: int


@dataclass(frozen=True)
class Unstick:
    """Launches that are stuck return."""

    actor: int


Step = object


@dataclass(frozen=True)
class Schedule:
    """What happens in one run.

    Attributes:
        threads: the steps of each thread; ``loop``: of the event loop; ``stage``: of the kernels.
        prepare, submit: what becomes of messages, by number; READY and INLINE of those not named.
        switch_seconds: how long a thread runs before others do: the shorter, the more orders are seen.
        one_device: whether the actors have one supervisor, so that a lost context concerns all of them.
    """

    seed: int
    actors: tuple[ActorPlan, ...]
    switch_seconds: float
    one_device: bool
    threads: tuple[tuple[Step, ...], ...]
    loop: tuple[Step, ...]
    stage: tuple[Step, ...]
    prepare: dict[int, Prepare]
    submit: dict[int, Submit]
    ending: Ending

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, ending: {self.ending.value}, one device: {self.one_device}"]
        lines[0] += f", threads switch after {self.switch_seconds} s"
        lines += [f"actor {index}: {plan}" for index, plan in enumerate(self.actors)]
        lines.append(f"prepare: { {n: how.value for n, how in self.prepare.items()} }")
        lines.append(f"submit: { {n: how.value for n, how in self.submit.items()} }")
        lanes = [(f"thread {index}", steps) for index, steps in enumerate(self.threads)]
        for name, steps in [*lanes, ("event loop", self.loop), ("stage", self.stage)]:
            lines.append(f"{name}:")
            lines += [f"    {step}" for step in steps]
        return "\n".join(lines)


def random_schedule(seed: int) -> Schedule:
    """The schedule of a seed: 5 to 40 steps."""
    return _Writer(random.Random(seed)).write(seed)


class _Writer:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.renewable = chance.random() < 0.85
        self.actors = tuple(self._actor_plan() for _ in range(chance.choice((1, 1, 2))))
        self.asked = 0
        self.prepare: dict[int, Prepare] = {}
        self.submit: dict[int, Submit] = {}
        # One schedule has faults of few kinds, so that some have none, and some have many of one.
        self.mostly = chance.choice((Submit.HOLD, Submit.HOLD, Submit.INLINE))
        self.faults = chance.sample(list(Submit)[2:], chance.choice((0, 1, 1, 2)))
        self.lateness = chance.choice((0.0, 0.0, 0.3))
        self.badness = chance.choice((0.0, 0.0, 0.1))
        self.chains = chance.choice((0.0, 0.1, 0.5))
        self.may_stop = chance.random() < 0.3

    def write(self, seed: int) -> Schedule:
        chance = self.chance
        threads: list[list[Step]] = [[] for _ in range(chance.randint(1, THREADS))]
        loop: list[Step] = []
        stage: list[Step] = []
        lanes = [*threads, loop]
        for _ in range(chance.randint(5, 40)):
            if chance.random() < 0.3:
                stage.append(self._stage_step())
            else:
                chance.choice(lanes).append(self._client_step())
        if all(plan.hang_ms is None for plan in self.actors):  # nobody would end what is stuck
            stage.append(Unstick(0))
            stage.append(Unstick(len(self.actors) - 1))
        return Schedule(
            seed,
            self.actors,
            chance.choice((5e-3, 5e-4, 1e-5)),
            chance.random() < 0.5,
            tuple(tuple(steps) for steps in threads),
            tuple(loop),
            tuple(stage),
            self.prepare,
            self.submit,
            chance.choices(list(Ending), (4, 2, 1, 1))[0],
        )

    def _actor_plan(self) -> ActorPlan:
        chance = self.chance
        return ActorPlan(
            max_in_flight=chance.choice((1, 2, 3)),
            mailbox_size=chance.choice((1, 2, 4, 64)),
            overflow=chance.choice(("wait", "wait", "fail")),
            max_restarts=chance.choice((0, 1, 3, 3)),
            hang_ms=chance.choice((None, None, None, 20)),
            renewable=self.renewable,
            finds_loss_early=chance.random() < 0.3,
            on_device=chance.random() < 0.5,
        )

    def _client_step(self) -> Step:
        chance = self.chance
        kind = chance.choices(
            ("ask", "many", "tell", "cancel", "callback", "wait", "pause", "stop", "stats"),
            (40, 5, 5, 12, 5, 8, 10, 3 * self.may_stop, 3),
        )[0]
        if kind in ("ask", "many", "tell") or not self.asked:
            return self._ask(chance.randint(0, 5) if kind == "many" else 1, tell=kind == "tell")
        if kind == "cancel":
            return Cancel(self._recent())
        if kind == "callback":
            action = chance.choice(("stop", "abort", "ask", "result") if self.may_stop else ("ask", "result"))
            number = self._recent()
            other = self._new_number() if action == "ask" else self._recent()
            return OnDone(number, action, self._some_actor(), other)
        if kind == "wait":
            return Wait(self._recent(), chance.randint(0, 5))
        if kind == "pause":
            return Pause(chance.randint(0, 4))
        if kind == "stop":
            return Stop(self._some_actor(), chance.random() < 0.5, chance.choice((0, 5, 20)))
        return Stats(self._some_actor())

    def _stage_step(self) -> Step:
        chance, actor = self.chance, self._some_actor()
        kind = chance.choices(
            ("end", "pause", "ready", "orphan", "lose", "make", "unstick"), (50, 20, 15, 5, 4, 4, 5)
        )[0]
        if kind == "end":
            how = chance.choices(list(End), (20, 3, 4, 2))[0]
            return EndKernel(actor, chance.choice((0, 0, 0, 1, 2)), how)
        if kind == "pause":
            return Pause(chance.randint(1, 4))
        if kind == "ready":
            return BecomeReady(actor, chance.choice((0, 0, 1)))
        steps = {"orphan": EndOrphan, "lose": LoseContext, "make": FailToMake, "unstick": Unstick}
        return steps[kind](actor)

    def _ask(self, count: int, *, tell: bool) -> Ask:
        chance = self.chance
        after = ()
        if self.asked and chance.random() < self.chains:
            after = tuple({self._recent() for _ in range(chance.choice((1, 1, 2)))})
        return Ask(
            numbers=tuple(self._new_number() for _ in range(count)),
            actor=self._some_actor(),
            caller=chance.choice(CALLERS),
            priority=chance.choice(PRIORITIES),
            timeout_ms=chance.choice((0, 2, 5, 15)) if chance.random() < 0.2 else None,
            after=after,
            tell=tell,
        )

    def _new_number(self) -> int:
        number, chance = self.asked, self.chance
        self.asked += 1
        if chance.random() < self.lateness:
            self.prepare[number] = Prepare.LATE
        elif chance.random() < self.badness:
            self.prepare[number] = chance.choice(list(Prepare)[2:])
        if self.faults and chance.random() < 0.2:
            self.submit[number] = chance.choice(self.faults)
        elif chance.random() < 0.7 and self.mostly is not Submit.INLINE:
            self.submit[number] = self.mostly
        return number

    def _recent(self) -> int:
        """A message of late, mostly: those before are answered by then."""
        return max(0, self.asked - 1 - min(self.chance.randint(0, 9), self.chance.randint(0, 9)))

    def _some_actor(self) -> int:
        return self.chance.randrange(len(self.actors))
