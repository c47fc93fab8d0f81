"""What one may ask for, and how: options that make no sense, many messages at once."""

import asyncio
from types import SimpleNamespace

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message

from flashactor import FlashAttnMsg, MsgKind
from flashactor.errors import (
    AskCancelledError,
    AskTimeoutError,
    DependencyFailedError,
    LaunchError,
    MailboxFullError,
    RequestError,
)

LAUNCH_ERROR = LaunchError("launch", "a refusal", "a launch", "ask again")


class Treacherous:
    """Raises whatever it is asked for."""

    def __hash__(self):
        raise ZeroDivisionError("no hash")

    def __iter__(self):
        raise ZeroDivisionError("no items")

    def __float__(self):
        raise ZeroDivisionError("no number")

    def __index__(self):
        raise ZeroDivisionError("no number")

    def __cuda_stream__(self):
        raise ZeroDivisionError("no stream")

    def __repr__(self):
        return "<treacherous>"


WRONG = [
    {"timeout": float("nan")},
    {"timeout": float("inf")},
    {"timeout": 1e300},
    {"timeout": 10**5000},
    {"timeout": "5"},
    {"timeout": [1]},
    {"timeout": Treacherous()},
    {"priority": 0.5},
    {"priority": None},
    {"priority": "high"},
    {"priority": True},
    {"priority": False},
    {"priority": -(2**31) - 1},
    {"priority": Treacherous()},
    {"caller": []},
    {"caller": ({},)},
    {"caller": Treacherous()},
    {"after": 3},
    {"after": "reply"},
    {"after": [None]},
    {"after": message()},
    {"after": Treacherous()},
    {"stream": -1},
    {"stream": 2},
    {"stream": 2**64},
    {"stream": "0x1000"},
    {"stream": False},
    {"stream": SimpleNamespace(cuda_stream="none")},
    {"stream": Treacherous()},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
def test_an_option_that_makes_no_sense_is_an_error_in_the_reply(start, wrong):
    actor, kernels = start(Kernels(held=False))
    (name,) = wrong
    if isinstance(wrong[name], Treacherous):
        name = "ask"
    pending = actor.ask(message(0), **wrong)
    with pytest.raises(RequestError, match=f"^{name}: got .* expected .* Remedy: "):
        pending.result(0)
    actor.tell(message(1), **wrong)
    assert actor.ask(message(2)).result(PATIENCE).out == 2
    assert kernels.prepared == [2]
    assert sum(actor.stats().errors.values()) == 2


@pytest.mark.parametrize(
    "msg", [None, "message", FlashAttnMsg, message().request, FlashAttnMsg(MsgKind.FORWARD, None)], ids=str
)
def test_something_else_than_a_message_is_an_error_in_the_reply(start, msg):
    actor, kernels = start()
    with pytest.raises(RequestError, match=r"FlashAttnMsg\.forward\(request\)"):
        actor.ask(msg).result(PATIENCE)
    actor.tell(msg)
    actor.ask(message(1))
    kernels.wait_launched()
    assert actor.stats().errors == {"RequestError": 2}


@pytest.mark.parametrize("priority", [2**40, -(2**31), 10**30], ids=str)
def test_any_other_integer_is_a_priority(start, priority):
    actor, _ = start(Kernels(held=False))
    assert actor.ask(message(0), priority=priority).result(PATIENCE).out == 0


@pytest.mark.parametrize("caller", [0, "", ("user", 7), frozenset({1}), object, float("nan")], ids=str)
def test_anything_hashable_is_a_caller(start, caller):
    actor, _ = start(Kernels(held=False))
    pendings = [actor.ask(message(number), caller=caller) for number in range(100)]
    assert [pending.result(PATIENCE).out for pending in pendings] == list(range(100))


# Many at once.


def test_many_are_answered_in_the_order_of_the_messages(start):
    actor, kernels = start(max_in_flight=5)
    replies = actor.ask_many(message(number) for number in range(5))
    assert len(replies) == 5
    kernels.wait_launched(5)
    kernels.finish(4, 2, 3, 0, 1)
    assert [reply.out for reply in replies.results(PATIENCE)] == list(range(5))
    assert [reply.result(0).out for reply in replies] == list(range(5))
    assert replies[1].result(0).out == 1
    assert [reply.out for reply in replies[3:].results(0)] == [3, 4]


def test_many_are_awaited_at_once(start):
    actor, kernels = start(Kernels(held=False))

    async def main():
        return await actor.ask_many([message(number) for number in range(200)])

    assert [reply.out for reply in asyncio.run(main())] == list(range(200))
    assert kernels.launched == list(range(200))


def test_none_at_all(start):
    actor, _ = start()

    async def main():
        return await actor.ask_many([])

    assert asyncio.run(main()) == []
    assert actor.ask_many(iter(())).results(0) == []
    assert actor.stats().received == 0


def waits_in_thread(replies):
    return replies.results(PATIENCE)


def waits_in_coroutine(replies):
    async def main():
        return await replies

    return asyncio.run(main())


@pytest.mark.parametrize("wait", [waits_in_thread, waits_in_coroutine])
def test_the_first_error_in_order_is_raised_when_all_are_settled(start, wait):
    actor, kernels = start()
    replies = actor.ask_many([message(number) for number in range(4)])
    kernels.wait_launched(4)
    waiting = InThread(wait, replies)
    kernels.fail(2, LAUNCH_ERROR)
    kernels.fail(1, AskTimeoutError("kernel", "too slow", "a result", "ask again"))
    kernels.finish(0)
    assert waiting.running
    kernels.finish(3)
    with pytest.raises(AskTimeoutError, match="too slow"):
        waiting.result()


@pytest.mark.parametrize("wait", [waits_in_thread, waits_in_coroutine])
def test_errors_among_the_replies_where_one_wants_them(start, wait):
    actor, kernels = start()
    replies = actor.ask_many([message(0), "no message", message(2)], return_errors=True)
    kernels.wait_launched(2)
    kernels.fail(2, LAUNCH_ERROR)
    kernels.finish(0)
    first, second, third = wait(replies)
    assert first.out == 0
    assert isinstance(second, RequestError)
    assert third is LAUNCH_ERROR


def test_a_limit_holds_for_all_of_them_together(start):
    actor, kernels = start()
    replies = actor.ask_many([message(number) for number in range(3)])
    kernels.wait_launched(3)
    kernels.finish(0)
    with pytest.raises(AskTimeoutError, match="the request still runs"):
        replies.results(0.02)
    with pytest.raises(RequestError, match="timeout"):
        replies.results("soon")
    kernels.open()
    assert [reply.out for reply in replies.results(PATIENCE)] == [0, 1, 2]


def test_options_hold_for_each_of_them(start):
    actor, kernels = start(max_in_flight=1)
    first = actor.ask(message(0))
    kernels.wait_launched()
    late = actor.ask_many([message(1), message(2)], timeout=0.02, return_errors=True)
    assert [type(error) for error in late.results(PATIENCE)] == [AskTimeoutError] * 2
    low, high = (actor.ask_many([message(n), message(n + 1)], priority=n) for n in (3, 5))
    streams = actor.ask_many([message(7), message(8)], stream=0x70)
    kernels.wait_prepared(8)
    kernels.open()
    for replies in (low, high, streams):
        replies.results(PATIENCE)
    assert first.result(PATIENCE).out == 0
    assert kernels.launched == [0, 5, 6, 3, 4, 7, 8]
    assert [work.stream for work in kernels.works] == [None] * 5 + [0x70] * 2


def test_each_of_them_waits_for_the_same_replies(start):
    actor, kernels = start()
    first, second = actor.ask(message(0)), actor.ask(message(1))
    rest = actor.ask_many(
        [message(2), message(3)], after=(reply for reply in (first, second)), return_errors=True
    )
    kernels.wait_launched(2)
    kernels.finish(0)
    kernels.fail(1, LAUNCH_ERROR)
    assert [type(error) for error in rest.results(PATIENCE)] == [DependencyFailedError] * 2
    bad = actor.ask_many([message(4), message(5)], after=7, return_errors=True)
    assert [type(error) for error in bad.results(0)] == [RequestError] * 2


def test_all_of_them_can_be_cancelled(start):
    actor, kernels = start(max_in_flight=1)
    replies = actor.ask_many([message(number) for number in range(5)], return_errors=True)
    kernels.wait_launched()
    kernels.finish(0)
    replies[0].result(PATIENCE)
    kernels.wait_launched(2)
    assert replies.cancel() == 4
    assert replies.cancel() == 0
    first, *others = replies.results(0)
    assert first.out == 0
    assert [(type(error), error.retry_safe) for error in others] == [
        (AskCancelledError, False),
        *[(AskCancelledError, True)] * 3,
    ]


def test_a_cancelled_task_cancels_them_all(start):
    actor, _ = start(max_in_flight=1)

    async def main():
        replies = actor.ask_many([message(number) for number in range(5)])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waits(replies), 0.02)
        assert all(isinstance(reply.error, AskCancelledError) for reply in replies)

    async def waits(replies):
        return await replies

    asyncio.run(main())


def test_what_does_not_fit_into_the_mailbox_is_refused_one_by_one(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=2, overflow="fail")
    actor.ask(message(0))
    kernels.wait_launched()
    replies = actor.ask_many([message(number) for number in range(1, 6)], return_errors=True)
    kernels.open()
    outcomes = replies.results(PATIENCE)
    assert [reply.out for reply in outcomes[:2]] == [1, 2]
    assert [type(error) for error in outcomes[2:]] == [MailboxFullError] * 3


def test_a_source_of_messages_that_fails_takes_the_others_back(start):
    actor, kernels = start(max_in_flight=1)
    actor.ask(message(0))
    kernels.wait_launched()

    def messages():
        yield message(1)
        yield message(2)
        raise ZeroDivisionError("no more")

    with pytest.raises(ZeroDivisionError, match="no more"):
        actor.ask_many(messages())
    assert actor.stats().errors == {"AskCancelledError": 2}


def test_what_is_no_source_of_messages_is_refused(start):
    actor, _ = start()
    for wrong in (None, 3, message(0)):
        with pytest.raises(RequestError, match=r"^msgs: got .* expected"):
            actor.ask_many(wrong)
