"""The rules of an actor, as a judge of what happened in a run.

Nothing here knows how an actor works: only what it promises. Each rule is a function of the run that yields
what is against it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from campaign_history import History, Message
from campaign_record import Event
from campaign_schedule import OnDone, Prepare, Schedule, Submit, Wait

from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    AskCancelledError,
    AskTimeoutError,
    ContextPoisonedError,
    DependencyFailedError,
    MailboxFullError,
    OutOfMemoryError,
    UnsupportedHeadDimError,
)


def violations(schedule: Schedule, events: Iterable[Event], limit: float) -> list[str]:
    """What was against the rules; ``limit``: seconds that a deadline may be late on a busy machine."""
    history = History(schedule, events, limit)
    return [found for rule in RULES for found in rule(history)]


def one_answer(history: History) -> Iterator[str]:
    """Every message is answered once, and whoever waits for it gets that answer."""
    for message in history.messages:
        if len(message.settled) != 1:
            yield f"answers: {message} was settled {len(message.settled)} times"
        if message.step.tell:
            continue
        if len(message.answered) != 1:
            yield f"answers: {message} was answered {len(message.answered)} times"
        if {id(event.error) for event in message.answered} != {id(event.error) for event in message.settled}:
            yield f"answers: {message} was answered otherwise than it was settled"
        if any(event.error is None and event.out != message.number for event in message.answered):
            yield f"answers: {message} got {[event.out for event in message.answered]}"


def own_result(history: History) -> Iterator[str]:
    """A result is that of the one launch of the message, and its executor had not been given up."""
    for message in history.messages:
        if not message.settled or message.error is not None:
            continue
        starts = message.starts
        if len(starts) != 1:
            yield f"result: {message} has one, and {len(starts)} launches"
            continue
        good = [done for done in message.dones if done.how.startswith("complete")]
        if not good or good[0].at > message.settled_at:
            yield f"result: {message} has one, and its kernel did not end before"
        elif good[0].at > history.end_of(starts[0]):
            yield f"result: {message} has that of an executor that was given up"


def one_launch(history: History) -> Iterator[str]:
    """Nothing is launched twice, unless the executor refused it, nor before it is ready."""
    for message in history.messages:
        if len(message.starts) > 1:
            yield f"launch: {message} was launched {len(message.starts)} times"
        yield from (f"launch: {message} was not ready" for event in message.submits if not event.seen)


def no_launch_that_is_denied(history: History) -> Iterator[str]:
    """``retry_safe`` means that nothing runs; an error that came before the launch prevents it."""
    for message in history.messages:
        error, starts = message.error, message.starts
        if isinstance(error, OutOfMemoryError | ContextPoisonedError) or not starts:
            continue
        if error is not None and error.retry_safe:
            yield f"retry: {message} was launched, and its error says that a retry is safe"


def says_what_runs(history: History) -> Iterator[str]:
    """A message that was never launched says that a retry is safe, where only the launch could forbid it."""
    late = AskTimeoutError | AskCancelledError | ActorStoppedError
    for message in history.messages:
        if isinstance(message.error, late) and not message.submits and not message.error.retry_safe:
            yield f"retry: {message} was not launched, and its error says that a retry is not safe"
        lost = isinstance(message.error, ContextPoisonedError) and message.starts
        if lost and message.error.retry_safe is not history.plan_of(message).renewable:
            yield f"retry: {message} was launched in a lost context, retry safe: {message.error.retry_safe}"


def few_in_flight(history: History) -> Iterator[str]:
    """At most max_in_flight are launched and not done."""
    for (actor, _), events in history.by_executor.items():
        flying: set[int] = set()
        for event in events:
            if event.what == "submitted" and not event.refused and event.how is not Submit.CRASH:
                flying.add(event.about)
                if len(flying) > history.schedule.actors[actor].max_in_flight:
                    yield f"places: {sorted(flying)} of actor {actor} are in flight at {event.at}"
            elif event.what == "done":
                flying.discard(event.about)


def few_prepared(history: History) -> Iterator[str]:
    """At most mailbox_size wait to be launched; ``after=`` may need more."""
    if any(message.after for message in history.messages):
        return
    for (actor, _), events in history.by_executor.items():
        size, waiting = history.schedule.actors[actor].mailbox_size, set()
        for event in events:
            if event.what == "prepared" and event.how not in (Prepare.ERROR, Prepare.CRASH):
                waiting.add(event.about)
                waiting = {n for n in waiting if history.message(n).may_end_at > event.at}
                if len(waiting) > size + 1:  # one may have come back from a launch that was refused
                    yield f"mailbox: {sorted(waiting)} of actor {actor} are prepared at {event.at}"
            elif event.what == "submitted":
                waiting.discard(event.about)


def one_executor_at_a_time(history: History) -> Iterator[str]:
    """An executor is ended once, before the next one is made, and is given nothing afterwards."""
    for actor in range(len(history.schedule.actors)):
        previous_end = -1.0
        for made in history.made(actor):
            ends = history.ends[actor, made.about]
            if len(ends) != 1:
                yield f"executor: {made.about} of actor {actor} was ended {len(ends)} times"
                continue
            if made.at < previous_end:
                yield f"executor: {made.about} of actor {actor} was made before its predecessor ended"
            previous_end = ends[0].at
            if ends[0].what == "closed" and ends[0].running:
                yield f"executor: {made.about} of actor {actor} was closed with {ends[0].running} in flight"
            events = history.by_executor[actor, made.about]
            calls = [event for event in events if event.what in ("prepared", "submitted")]
            yield from (f"executor: {call} came after its end" for call in calls if call.at > ends[0].at)
            if len({call.thread for call in calls}) > 1:
                yield f"executor: {made.about} of actor {actor} was called on several threads"


def few_restarts(history: History) -> Iterator[str]:
    """A policy's limit holds; what is not made counts, a context that another actor lost does not."""
    for index, plan in enumerate(history.schedule.actors):
        made = len(history.made(index)) + len(history.of("not made", index))
        others = {(e.actor, e.generation) for e in history.on_device(index, "lost") if e.actor != index}
        if made > plan.max_restarts + 1 + len(others):
            yield f"restart: actor {index} was started {made} times"


def first_come_first_served(history: History) -> Iterator[str]:
    """Messages of one caller and priority are launched in the order of the asks."""
    for lane in history.lanes().values():
        launched = sorted((message for message in lane if message.starts), key=lambda m: m.starts[0].at)
        for index, later in enumerate(launched):
            for earlier in launched[index + 1 :]:
                if earlier.returned_at < later.begun_at:
                    yield f"order: {later} was launched before {earlier}"


def priorities_and_turns(history: History) -> Iterator[str]:
    """Higher priority goes first; callers of one priority take turns."""
    for events in history.by_executor.values():
        launches = [event for event in events if event.what == "submitted"]
        queue = history.queue_of(events)
        last: dict[tuple, int] = {}
        for index, launch in enumerate(launches):
            message = history.message(launch.about)
            if index:
                for other in queue.surely_next(launches[index - 1].at, launch.at):
                    if other.priority > message.priority:
                        yield f"priority: {message} was launched before {other}"
            before = last.get(message.lane)
            last[message.lane] = index
            if before:
                turns = {history.message(event.about).lane for event in launches[before + 1 : index]}
                for other in queue.surely_next(launches[before - 1].at, launch.at):
                    same = other.priority == message.priority and other.lane != message.lane
                    if same and other.lane not in turns and not history.lane_shrank(other, launch.at):
                        yield f"turns: {message} was launched while {other} waited for its turn"


def after_others(history: History) -> Iterator[str]:
    """What a message is to run after is launched before, and done, unless the device waits for it."""
    for message in history.messages:
        for number in message.after:
            other = history.message(number)
            if other.settled and other.error is not None and other.settled_at < message.begun_at:
                if message.starts:
                    yield f"after: {message} was launched, and {other} had failed"
                continue
            for start in message.starts:
                if other.starts and other.starts[0].at > start.at:
                    yield f"after: {message} was launched before {other}"
                elif other.settled_at > start.at and number not in start.markers:
                    yield f"after: {message} was launched before {other} was done, without its marker"


def deadlines_hold(history: History) -> Iterator[str]:
    """A message with a deadline is answered by then."""
    for message in history.messages:
        allowed = message.step.timeout_ms
        if allowed is None or not message.settled:
            continue
        took = message.settled[0].seconds - message.begun.seconds
        if took > allowed / 1e3 + history.limit:
            yield f"deadline: {message} was answered after {took:.3f} s"
        if isinstance(message.error, AskTimeoutError) and took < allowed / 1e3:
            yield f"deadline: {message} was ended after {took:.4f} s, before its time"


def cancels_hold(history: History) -> Iterator[str]:
    """Who is told that a message is cancelled finds it so; who was the last to wait has cancelled it."""
    wanted = {step.number for step in history.steps() if isinstance(step, Wait | OnDone)}
    wanted |= {number for message in history.messages for number in message.after}
    wanted |= {number for step in history.steps() if isinstance(step, OnDone) for number in (step.other,)}
    for event in history.of("cancelled"):
        message = history.message(event.about)
        if event.effect and not isinstance(message.error, AskCancelledError):
            yield f"cancel: {message} was said to be cancelled"
        if not event.effect and isinstance(message.error, AskCancelledError):
            first = min(cancel.at for cancel in message.cancels)
            if not any(cancel.at < event.at and cancel.at != first for cancel in message.cancels):
                yield f"cancel: {message} was said to be answered before"
    for event in history.of("withdrawn"):
        message = history.message(event.about)
        dones = [done.at for done in message.dones]
        if message.number not in wanted and message.error is None and dones and dones[0] > event.at:
            yield f"cancel: {message} was computed though nobody waited for it any more"


def stop_answers_everybody(history: History) -> Iterator[str]:
    """When ``stop`` returns, what was asked before is answered; later messages are answered with an error."""
    for stopped in history.of("stopped"):
        if stopped.took > stopped_limit(history, stopped):
            yield f"stop: actor {stopped.about} took {stopped.took:.3f} s"
        for message in history.messages:
            if message.step.actor != stopped.about:
                continue
            if message.returned_at < stopped.begun and was_answered_after(history, message, stopped):
                yield f"stop: {message} was not answered when stop returned at {stopped.at}"
            if message.begun_at > stopped.at and (message.submits or message.error is None):
                yield f"stop: {message} was asked after stop returned, and taken"


def was_answered_after(history: History, message: Message, stopped: Event) -> bool:
    """Whether a message was answered clearly later: who answers notes it a moment after it has begun to."""
    return not message.settled or message.settled[0].seconds > stopped.seconds + history.limit / 20


def stopped_limit(history: History, stopped: Event) -> float:
    """Seconds after which a stop has lasted too long."""
    began = next(event for event in history.of("stop") if event.at == stopped.begun)
    return began.seconds_allowed + history.limit


def errors_have_their_cause(history: History) -> Iterator[str]:
    """No answer without its cause."""
    for message in history.messages:
        if message.settled and message.error is not None and not has_cause(history, message):
            yield f"cause: {message} has none for it"


def has_cause(history: History, message: Message) -> bool:
    """Whether something happened that explains the error of a message."""
    error, plan, at = message.error, history.plan_of(message), message.settled_at
    actor = message.step.actor
    match error:
        case AskTimeoutError():
            return message.step.timeout_ms is not None
        case AskCancelledError():
            return any(cancel.at < at for cancel in message.cancels)
        case ActorStoppedError():
            return any(stop.at < at for stop in history.of("stop", actor))
        case MailboxFullError():
            crowd = [m for m in history.messages if m.step.actor == actor and m is not message]
            open_then = [m for m in crowd if m.begun_at < at and m.settled_at > message.begun_at]
            may_fail = plan.overflow == "fail" or message.in_callback or message.on_a_callbacks_thread
            return may_fail and len(open_then) >= plan.mailbox_size
        case DependencyFailedError():
            return any(history.message(n).error is not None for n in message.after)
        case UnsupportedHeadDimError():
            return any(event.how is Prepare.ERROR for event in message.prepares)
        case OutOfMemoryError():
            return any(done.how == "fail" and done.at < at for done in message.dones)
        case ContextPoisonedError():
            lost = any(lost.at < at for lost in history.on_device(actor, "lost"))
            return lost and (bool(message.submits) or history.given_up(actor))
        case ActorFailedError():
            crashed = any(event.how is Prepare.CRASH for event in message.prepares)
            return crashed or history.given_up(actor) or history.failed_under(message)
        case _:
            return False


def counts_agree(history: History) -> Iterator[str]:
    """The actor's own counts are those of the record."""
    for event in history.of("stats"):
        stats, plan = event.stats, history.schedule.actors[event.about]
        if stats.received != stats.completed + stats.failed + stats.pending:
            yield f"stats: {stats.received} received, {stats.completed}, {stats.failed} and {stats.pending}"
        if not (0 <= stats.queued <= stats.pending and 0 <= stats.in_flight <= plan.max_in_flight):
            yield f"stats: queued {stats.queued}, pending {stats.pending}, in flight {stats.in_flight}"
        if event.final:
            yield from final_counts_agree(history, event)


def final_counts_agree(history: History, event: Event) -> Iterator[str]:
    """So are those of an actor that has ended."""
    stats, actor = event.stats, event.about
    settled = [m.error for m in history.messages if m.step.actor == actor for _ in m.settled]
    errors = Counter(type(error).__name__ for error in settled if error is not None)
    if (stats.received, stats.failed, dict(stats.errors)) != (len(settled), errors.total(), dict(errors)):
        yield f"stats: {stats} of actor {actor}, and {len(settled)} settled, errors {dict(errors)}"
    if (stats.pending, stats.queued, stats.waiting, stats.in_flight) != (0, 0, 0, 0):
        yield f"stats: actor {actor} has ended with {stats}"
    if stats.generation != len(history.made(actor)):
        yield f"stats: generation {stats.generation} of actor {actor}, {len(history.made(actor))} executors"


RULES = (
    one_answer,
    own_result,
    one_launch,
    no_launch_that_is_denied,
    says_what_runs,
    few_in_flight,
    few_prepared,
    one_executor_at_a_time,
    few_restarts,
    first_come_first_served,
    priorities_and_turns,
    after_others,
    deadlines_hold,
    cancels_hold,
    stop_answers_everybody,
    errors_have_their_cause,
    counts_agree,
)
