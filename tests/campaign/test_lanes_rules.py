"""Lanes against a list that is searched from the front."""

from collections import defaultdict

from campaign_machine import SETTINGS
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from flashactor.actor.lanes import Lanes

PRIORITIES = st.integers(-2, 2)
CALLERS = st.sampled_from([None, "a", "b", "c"])


class Item:
    def __init__(self, number, priority, caller):
        self.number, self.priority, self.caller = number, priority, caller

    def __repr__(self):
        return f"{self.number} of {self.caller} at {self.priority}"


class LanesMachine(RuleBasedStateMachine):
    """The model keeps, for each priority, the callers in the order of their turns, each with its items."""

    items = Bundle("items")

    def __init__(self):
        super().__init__()
        self.lanes = Lanes()
        self.levels = defaultdict(list)  # of (caller, items), whose turn it is first
        self.number = 0

    def lane(self, item):
        return next((items for caller, items in self.levels[item.priority] if caller == item.caller), None)

    def drop(self, item):
        self.lane(item).remove(item)
        level = self.levels[item.priority]
        level[:] = [(caller, items) for caller, items in level if items]

    @rule(target=items, priority=PRIORITIES, caller=CALLERS, front=st.booleans())
    def push(self, priority, caller, front):
        self.number += 1
        item = Item(self.number, priority, caller)
        self.lanes.push(item, front=front)
        if self.lane(item) is None:
            self.levels[priority].append((caller, []))
        self.lane(item).insert(0 if front else len(self.lane(item)), item)
        return item

    @rule(blocked=st.sets(CALLERS))
    def pop(self, blocked):
        asked = []

        def may_leave(item):
            asked.append(item)
            return item.caller not in blocked

        expected = self.expected_pop(blocked)
        assert self.lanes.pop(may_leave) is expected
        assert all(item is expected or item.caller in blocked for item in asked)

    def expected_pop(self, blocked):
        for priority in sorted(self.levels, reverse=True):
            level = self.levels[priority]
            for index, (caller, items) in enumerate(level):
                if caller not in blocked:
                    item = items[0]
                    level.append(level.pop(index))
                    self.drop(item)
                    return item
        return None

    @rule(target=items, item=consumes(items))
    def discard(self, item):
        is_in = item in (self.lane(item) or ())
        assert self.lanes.discard(item) is is_in
        if is_in:
            self.drop(item)
        assert not self.lanes.discard(item)
        return multiple()

    @invariant()
    def the_same_items_in_the_same_order(self):
        expected = [
            item
            for priority in sorted(self.levels, reverse=True)
            for _, items in self.levels[priority]
            for item in items
        ]
        assert list(self.lanes) == expected
        assert len(self.lanes) == self.lanes.length == len(expected)


TestLanes = LanesMachine.TestCase
TestLanes.settings = SETTINGS
