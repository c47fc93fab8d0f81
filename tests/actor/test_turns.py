"""Whose turn it is: priorities, and callers that take turns."""

import asyncio

import pytest
from actor_tools import PATIENCE, message, reply_to, wait_until

from flashactor.telemetry.events import Observer


def queued_behind_one(start, asks, **props):
    """Have messages wait behind a kernel, in the order of ``asks``: (number, options); the launches then."""
    actor, kernels = start(max_in_flight=1, **props)
    actor.ask(message(999))
    kernels.wait_launched()
    for number, options in asks:
        actor.ask(message(number), **options)
    kernels.wait_prepared(*(number for number, _ in asks))
    kernels.open()
    kernels.wait_launched(len(asks) + 1)
    return kernels.launched[1:]


def test_higher_priority_first_and_each_in_order(start):
    asks = [(number, {"priority": priority}) for number, priority in enumerate([0, 1, -1, 1, 0, 7])]
    assert queued_behind_one(start, asks) == [5, 1, 3, 0, 4, 2]


def test_priorities_hold_whoever_asks(start):
    asks = [
        (0, {"caller": "a"}),
        (1, {"caller": "b", "priority": 1}),
        (2, {"caller": "a", "priority": 1}),
        (3, {"caller": "b", "priority": 1}),
    ]
    assert queued_behind_one(start, asks) == [1, 2, 3, 0]


def test_callers_take_turns(start):
    asks = [(number, {"caller": caller}) for number, caller in enumerate("aaabbc")]
    assert queued_behind_one(start, asks) == [0, 3, 5, 1, 4, 2]


class Equal:
    """Equal to each other, but not the same; observers see it."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return isinstance(other, Equal)


class NotComparable(Equal):
    def __eq__(self, other):
        raise ZeroDivisionError("as the values of arrays")

    __hash__ = Equal.__hash__


class Changing:
    """A caller whose hash changes after it was given."""

    def __init__(self):
        self.hashed = 0

    def __hash__(self):
        self.hashed += 1
        return self.hashed


@pytest.mark.parametrize(
    ("caller", "order"),
    [(Equal, [0, 3, 1, 2]), (NotComparable, [0, 1, 2, 3]), (Changing, [0, 1, 2, 3])],
)
def test_callers_that_are_objects(start, caller, order):
    asks = [(number, {"caller": caller()}) for number in range(3)] + [(3, {})]
    heard = []

    class Listening(Observer):
        def asked(self, event):
            heard.append(event.caller)

    assert queued_behind_one(start, asks, observers=(Listening(),)) == order
    assert [type(each) for each in heard] == [type(None), caller, caller, caller, type(None)]


def test_who_names_no_caller_is_one_caller(start):
    asks = [(number, {}) for number in range(4)] + [(4, {"caller": "named"})]
    assert queued_behind_one(start, asks) == [0, 4, 1, 2, 3]
    assert queued_behind_one(start, [(number, {}) for number in range(50)]) == list(range(50))


def test_a_late_caller_does_not_wait_for_a_flood(start):
    asks = [(number, {"caller": "flood"}) for number in range(1000)] + [(1000, {"caller": "late"})]
    launched = queued_behind_one(start, asks, mailbox_size=2000)
    assert launched.index(1000) <= 1
    assert [number for number in launched if number != 1000] == list(range(1000))


def test_a_late_caller_comes_into_a_full_mailbox_before_the_rest_of_a_flood(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=4)

    async def main():
        flood = [actor.ask(message(number), caller="flood") for number in range(1000)]
        late = actor.ask(message(1000), caller="late")
        await asyncio.to_thread(wait_until, lambda: actor.stats().waiting == 996)
        kernels.open()
        await asyncio.gather(*map(reply_to, [*flood, late]))

    asyncio.run(main())
    # The one in flight, the four that were in, one of the flood, and the turn is the late one's.
    assert kernels.launched.index(1000) <= 6


def test_a_steady_flood_of_one_priority_starves_the_lower_one_but_not_for_ever(start):
    """Strict means strict; what is lower goes as soon as nothing higher waits."""
    actor, kernels = start(max_in_flight=1)
    actor.ask(message(0))
    kernels.wait_launched()
    low = actor.ask(message(1), priority=-1)
    for number in range(2, 6):
        actor.ask(message(number))
        kernels.wait_prepared(number)
        kernels.finish(kernels.launched[-1])
        kernels.wait_launched(number)
    assert 1 not in kernels.launched
    kernels.open()
    assert low.result(PATIENCE).out == 1
