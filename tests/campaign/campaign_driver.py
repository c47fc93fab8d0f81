"""Runs a schedule on real actors, and hands what happened to the rules."""

import asyncio
import faulthandler
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from campaign_executor import Stage
from campaign_record import Record, Witness, announced
from campaign_rules import violations
from campaign_schedule import (
    Ask,
    BecomeReady,
    Cancel,
    Ending,
    EndKernel,
    EndOrphan,
    FailToMake,
    LoseContext,
    OnDone,
    Pause,
    Schedule,
    Stats,
    Stop,
    Unstick,
    Wait,
)

from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps, SmArch
from flashactor.actor.reply import PendingReply
from flashactor.actor.restarts import RestartPolicy
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import FlashAttnError
from flashactor.service import live_actors

PLAYER_WAITS_MS = 5
"""Deadline of a message that the thread that plays asks in a callback."""
LIMIT = 10.0
"""Seconds after which something that should happen counts as never happening."""


def message(number: int) -> FlashAttnMsg:
    """A message that carries its number."""
    request = Fa2FwdRequest(SmArch.SM80, DType.BF16, 64, softmax_scale=float(number + 1))
    return FlashAttnMsg.forward(request)


def run(schedule: Schedule, limit: float = LIMIT) -> list[str]:
    """What in a run of a schedule was against the rules; with it, where all threads are if they hang."""
    return Run(schedule, limit).violations()


class Run:
    """One run of a schedule."""

    def __init__(self, schedule: Schedule, limit: float) -> None:
        self.schedule, self.limit = schedule, limit
        self.record = Record()
        self.wrong: list[str] = []
        self.pendings: dict[int, PendingReply] = {}
        self.tasks: dict[int, asyncio.Task] = {}
        self.batches: list[tuple[tuple[int, ...], object]] = []
        self.stages = [Stage(self.record, schedule, index) for index in range(len(schedule.actors))]
        self.device = Supervisor("device") if schedule.one_device else None
        self.actors = [self._start(index) for index in range(len(schedule.actors))]
        self.next_number = 1000  # of asks that are in no schedule
        self._player = threading.current_thread()

    def violations(self) -> list[str]:
        """Run it."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(self.schedule.switch_seconds)
        try:
            self._play_and_end()
        finally:
            sys.setswitchinterval(interval)
        found = violations(self.schedule, list(self.record), self.limit)
        if self.wrong or found:
            found = [*self.wrong, *found, *map(str, self.record)]
        return found

    # Starting and ending

    def _play_and_end(self) -> None:
        steps = enumerate(self.schedule.threads)
        clients = [self._thread(f"client {index}", self._client, lane) for index, lane in steps]
        clients.append(self._thread("loop", self._loop))
        self._play()
        self._let_deadlines_pass()
        self._end(clients)
        if self.device is not None:
            self.device.stop()
        if not self.wrong:
            self._ask_after_the_end()
            self._look_at_the_end()

    def _start(self, index: int) -> FlashAttnActor:
        plan = self.schedule.actors[index]
        props = FlashAttnProps(
            label=f"actor{index}",
            max_in_flight=plan.max_in_flight,
            mailbox_size=plan.mailbox_size,
            overflow=plan.overflow,
            hang_seconds=None if plan.hang_ms is None else plan.hang_ms / 1e3,
            restart=RestartPolicy(max_restarts=plan.max_restarts, backoff=0.001),
            observers=(Witness(self.record, index),),
        )
        return FlashAttnActor.start(props, self.stages[index].make, supervisor=self.device)

    def _thread(self, name: str, target: Callable, *args: object) -> threading.Thread:
        thread = threading.Thread(target=self._watched, args=(target, *args), name=name, daemon=True)
        thread.start()
        return thread

    def _watched(self, target: Callable, *args: object) -> None:
        try:
            target(*args)
        except BaseException as error:
            self.wrong.append(f"{threading.current_thread().name} raised {error!r}")

    def _let_deadlines_pass(self) -> None:
        """Those that have a deadline are answered though no kernel ends."""
        if not self.record.wait_until(lambda: not self.record.unanswered(timed=True), self.limit):
            self._hangs(f"messages after their deadline: {self.record.unanswered(timed=True)}")

    def _end(self, clients: list[threading.Thread]) -> None:
        ending = self.schedule.ending
        if ending is Ending.FINISH:
            self._open_up()
            self._join(clients)
            if not self.record.wait_until(lambda: not self.record.unanswered(), self.limit):
                self._hangs(f"messages of an actor that runs: {self.record.unanswered()}")
            self._stop_all(self.limit, drain=True)
        elif ending is Ending.DRAIN:
            stopper = self._thread("stopper", partial(self._stop_all, self.limit, drain=True))
            self._open_up()
            self._join([stopper, *clients])
        elif ending is Ending.ABORT:
            self._stop_all(self.limit, drain=False)
            self._open_up()
            self._join(clients)
        else:
            self._stop_all(0.005, drain=True)
            self._open_up()
            self._join(clients)
        if self.wrong:  # whoever still waits must not stay until the process ends
            self._stop_all(0.0, drain=False)

    def _open_up(self) -> None:
        for stage in self.stages:
            stage.open_up()

    def _stop_all(self, seconds: float, *, drain: bool) -> None:
        for index in range(len(self.actors)):
            self._stop(index, seconds, drain=drain)

    def _stop(self, index: int, seconds: float, *, drain: bool) -> None:
        begun = self.record.add("stop", index, drain=drain, seconds_allowed=seconds)
        self.actors[index].stop(seconds, drain=drain)
        self.record.add(
            "stopped", index, drain=drain, begun=begun.at, took=time.perf_counter() - begun.seconds
        )

    def _join(self, threads: list[threading.Thread]) -> None:
        end = time.perf_counter() + self.limit
        for thread in threads:
            thread.join(max(end - time.perf_counter(), 0.0))
        stuck = [thread.name for thread in threads if thread.is_alive()]
        if stuck:
            self._hangs(f"threads: {', '.join(stuck)}")

    def _hangs(self, what: str) -> None:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read().decode()
        self.wrong.append(f"hangs: {what}\n{stacks}")

    def _ask_after_the_end(self) -> None:
        for index, actor in enumerate(self.actors):
            number = self._new_number()
            self._ask_in_thread(Ask((number,), index, None, 0, None, ()))
            if not self.pendings[number].done:
                self.wrong.append(f"hangs: a message to the stopped actor {index}")
            if actor.is_alive or actor in live_actors():
                self.wrong.append(f"stop: actor {index} counts as alive")

    def _look_at_the_end(self) -> None:
        self.record.wait_until(self._all_is_noted, self.limit)
        for index, actor in enumerate(self.actors):
            self._note_stats(index, actor, final=True)
        for number, pending in self.pendings.items():
            done, launch = pending.done, pending.launched
            if not done or not launch.done:
                self.wrong.append(f"lost: message {number}, done {done}, launch {launch.done}")
            elif pending.error is None and launch.error is not None:
                self.wrong.append(f"launch: that of message {number} failed, and it did not")
        for numbers, batch in self.batches:
            self._check_batch(numbers, batch)

    def _all_is_noted(self) -> bool:
        """Whether those who ask, who answer, and who end executors have told the record of it."""
        if len(self.record.of("ask")) > len(self.record.of("ask returned")):
            return False
        answered = {event.about for event in self.record.of("answered")}
        if self.record.unanswered() or not answered >= set(self.pendings):
            return False
        with_end = {
            (event.actor, event.about) for event in self.record if event.what in ("closed", "abandoned")
        }
        return all((event.actor, event.about) in with_end for event in self.record.of("made"))

    def _check_batch(self, numbers: tuple[int, ...], batch: object) -> None:
        errors = [pending.error for pending in batch if pending.error is not None]
        try:
            outs = [reply.out for reply in batch.results(0.0)]
        except FlashAttnError as error:
            if not errors or error is not errors[0]:
                self.wrong.append(f"batch: raised {error!r} of {errors}")
        else:
            if errors or outs != list(numbers):
                self.wrong.append(f"batch: {outs} of {numbers}, errors {errors}")

    # Steps

    def _play(self) -> None:
        for step in self.schedule.stage:
            match step:
                case Pause(ms):
                    time.sleep(ms / 1e3)
                case EndKernel(actor, index, how):
                    self.stages[actor].end_kernel(index, how)
                case EndOrphan(actor):
                    self.stages[actor].end_orphan()
                case BecomeReady(actor, index):
                    self.stages[actor].become_ready(index)
                case LoseContext(actor):
                    self.stages[actor].lose_context()
                case FailToMake(actor):
                    self.stages[actor].fail_to_make()
                case Unstick(actor):
                    self.stages[actor].unstuck.set()

    def _client(self, steps: tuple[object, ...]) -> None:
        for step in steps:
            match step:
                case Ask():
                    self._ask_in_thread(step)
                case Stop(actor, drain, ms):
                    self._stop(actor, ms / 1e3, drain=drain)
                case Wait(number, ms) if number in self.pendings:
                    with suppress(FlashAttnError):
                        self.pendings[number].result(ms / 1e3)
                case Pause(ms):
                    time.sleep(ms / 1e3)
                case Cancel(number) if number in self.pendings:
                    self._cancel(number)
                case _:
                    self._step_anywhere(step)

    def _loop(self) -> None:
        asyncio.run(self._steps_in_loop(self.schedule.loop))

    async def _steps_in_loop(self, steps: tuple[object, ...]) -> None:
        for step in steps:
            match step:
                case Ask(tell=False):
                    await self._ask_in_loop(step)
                case Ask():
                    self._ask(step)
                case Stop(actor, drain, ms):
                    begun = self.record.add("stop", actor, drain=drain, seconds_allowed=ms / 1e3)
                    await self.actors[actor].aclose(ms / 1e3, drain=drain)
                    self.record.add("stopped", actor, drain=drain, begun=begun.at, took=0.0)
                case Wait(number, ms) if number in self.pendings:
                    self.record.add("cancel", number, of="wait")  # if it is the last one that waits
                    with suppress(FlashAttnError, TimeoutError):
                        await asyncio.wait_for(self._wait(number), ms / 1e3)
                case Pause(ms):
                    await asyncio.sleep(ms / 1e3)
                case Cancel(number) if number in self.tasks:
                    task = self.tasks[number]
                    if task.cancel():
                        self.record.add("cancel", number, of="task")
                        await asyncio.wait([task])
                case Cancel(number) if number in self.pendings:
                    self._cancel(number)
                case _:
                    self._step_anywhere(step)
        if self.tasks:
            await asyncio.wait(self.tasks.values())

    def _step_anywhere(self, step: object) -> None:
        match step:
            case Stats(actor):
                self._note_stats(actor, self.actors[actor], final=False)
            case OnDone(number, action, actor, other) if number in self.pendings:
                self.pendings[number].add_done_callback(lambda _: self._in_callback(action, actor, other))

    def _in_callback(self, action: str, actor: int, other: int) -> None:
        try:
            if action == "ask":
                # The thread that plays ends the kernels of all actors: it must not wait for room for ever.
                limit = PLAYER_WAITS_MS if threading.current_thread() is self._player else None
                self._ask_in_thread(Ask((other,), actor, None, 0, limit, ()), in_callback=True)
            elif action == "result":
                pending = self.pendings.get(other)
                if pending is not None:
                    with suppress(FlashAttnError):  # BlockingAskError, or its own; nothing may hang here
                        pending.result(0.005)
            else:
                self.record.add("stop", actor, drain=action == "stop", seconds_allowed=0.0)
                self.actors[actor].stop(0.0, drain=action == "stop")
        except FlashAttnError as error:
            self.record.add("callback raised", actor, error=error)
        except BaseException as error:
            self.wrong.append(f"callback: {action} raised {error!r}")

    # Asking

    def _ask_in_thread(self, step: Ask, *, in_callback: bool = False) -> None:
        for number in self._ask(step, in_callback=in_callback):
            self.pendings[number].add_done_callback(partial(self._answered, number))

    async def _ask_in_loop(self, step: Ask) -> None:
        """Ask in tasks of which each awaits one message and is the only one that does."""
        for number in self._ask(step):
            self.tasks[number] = asyncio.ensure_future(self._await(number))
        await asyncio.sleep(0)  # the tasks begin

    async def _await(self, number: int) -> None:
        pending = self.pendings[number]
        try:
            await pending
        except FlashAttnError:
            pass
        except asyncio.CancelledError:
            self.record.add("withdrawn", number)
            raise
        finally:  # a callback that is left earlier would want the reply, too
            pending.add_done_callback(partial(self._answered, number))

    async def _wait(self, number: int) -> None:
        await self.pendings[number]

    def _ask(self, step: Ask, *, in_callback: bool = False) -> tuple[int, ...]:
        """Ask for the messages of a step; the numbers of those that one can wait for."""
        actor, numbers = self.actors[step.actor], step.numbers
        deps = {number: self.pendings[number] for number in step.after if number in self.pendings}
        options = {
            "timeout": None if step.timeout_ms is None else step.timeout_ms / 1e3,
            "priority": step.priority,
            "caller": step.caller,
            "after": tuple(deps.values()) or None,
        }
        for number in numbers:
            self.record.add("ask", number, step=step, after=tuple(deps), in_callback=in_callback)
        with announced(numbers, timed=step.timeout_ms is not None):
            if step.tell:
                actor.tell(message(numbers[0]), **options)
            elif len(numbers) == 1:
                self.pendings[numbers[0]] = actor.ask(message(numbers[0]), **options)
            else:
                batch = actor.ask_many([message(number) for number in numbers], **options)
                self.batches.append((numbers, batch))
                self.pendings.update(zip(numbers, batch, strict=True))
        for number in numbers:
            self.record.add("ask returned", number)
        return () if step.tell else numbers

    def _answered(self, number: int, pending: PendingReply) -> None:
        error = pending.error
        out = pending.result().out if error is None else None
        self.record.add("answered", number, error=error, out=out)

    def _cancel(self, number: int) -> None:
        self.record.add("cancel", number, of="ask")
        effect = self.pendings[number].cancel()
        self.record.add("cancelled", number, of="ask", effect=effect)

    def _note_stats(self, index: int, actor: FlashAttnActor, *, final: bool) -> None:
        stats = actor.stats()
        self.record.add("stats", index, stats=stats, final=final, failure=actor.failure)

    def _new_number(self) -> int:
        self.next_number += 1
        return self.next_number
