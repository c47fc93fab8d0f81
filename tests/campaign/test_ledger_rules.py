"""The ledger against four sets."""

from campaign_machine import SETTINGS
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from flashactor.actor.ledger import Entry, Ledger
from flashactor.errors import AskTimeoutError, LaunchError

ERRORS = (AskTimeoutError("timeout", "late", "early", "wait"), LaunchError("launch", "no", "yes", "again"))


class Letter:
    """What a ledger needs to see of a message."""

    def __init__(self):
        self.launched = self.settled = False


class LedgerMachine(RuleBasedStateMachine):
    """Entered, answered, launched and landed messages are sets; the rest follows."""

    letters = Bundle("letters")

    def __init__(self):
        super().__init__()
        self.entered, self.answered, self.waiting, self.flying = set(), set(), set(), set()
        self.completed, self.errors = 0, {}
        self.closed = self.draining = False
        self.told = 0

    @initialize(places=st.integers(1, 3), size=st.integers(1, 4))
    def start(self, places, size):
        self.places, self.size = places, size
        self.ledger = Ledger(places, size)
        self.ledger.on_change = self.on_change

    def on_change(self):
        self.told += 1

    def tells(self, call, *arguments):
        """What a call returns, and whether it said that something changed."""
        before = self.told
        return call(*arguments), self.told > before

    @rule(target=letters)
    def enter(self):
        letter = Letter()
        entry = self.ledger.enter(letter)
        self.entered.add(letter)
        self.waiting.add(letter)
        expected = Entry.TAKEN if len(self.waiting) <= self.size else Entry.FULL
        assert entry is (Entry.CLOSED if self.closed else expected)
        return letter

    @precondition(lambda self: len(self.flying) < self.places)
    @rule(letter=letters)
    def launch(self, letter):
        if letter in self.flying or (letter.launched and letter not in self.answered):
            return  # nobody launches what is launched
        is_open = letter not in self.answered
        assert self.ledger.launch(letter) is is_open
        if is_open:
            self.waiting.discard(letter)
            self.flying.add(letter)

    @rule(letter=letters)
    def bounce(self, letter):
        if letter not in self.flying:
            return
        is_open = letter not in self.answered
        assert self.ledger.bounce(letter) is is_open
        self.flying.discard(letter)
        assert not letter.launched
        if is_open:
            self.waiting.add(letter)

    @rule(letter=letters)
    def complete(self, letter):
        was_full, flew = len(self.flying) >= self.places, letter in self.flying
        is_answer = flew and letter not in self.answered
        answers, told = self.tells(self.ledger.complete, letter, (0.0,) * 5)
        assert answers is is_answer
        assert told or not (flew and (was_full or self.draining)), "a place is free, and nobody hears of it"
        self.flying.discard(letter)
        if is_answer:
            self.answered.add(letter)
            self.completed += 1

    @rule(letter=letters)
    def land(self, letter):
        flew = letter in self.flying
        assert self.tells(self.ledger.land, letter) == (flew, flew)
        self.flying.discard(letter)
        if flew:
            self.leave(letter, ERRORS[1])  # as one does who lets a message land

    @rule(letter=letters, error=st.sampled_from(ERRORS))
    def leave(self, letter, error):
        is_open = letter not in self.answered
        leaves, told = self.tells(self.ledger.leave, letter, error)
        assert leaves is is_open
        assert told or not (is_open and self.draining), "a drained actor may end, and nobody hears of it"
        if is_open:
            self.answered.add(letter)
            self.waiting.discard(letter)
            self.errors[type(error).__name__] = self.errors.get(type(error).__name__, 0) + 1

    @rule()
    def clear_places(self):
        assert set(self.ledger.clear_places()) == self.flying
        for letter in self.flying:
            self.ledger.leave(letter, ERRORS[1])
            if letter not in self.answered:
                self.answered.add(letter)
                self.errors["LaunchError"] = self.errors.get("LaunchError", 0) + 1
        self.flying.clear()

    @rule(draining=st.booleans())
    def close(self, draining):
        self.ledger.close(draining=draining)
        self.closed, self.draining = True, draining

    @invariant()
    def the_account_is_that_of_the_sets(self):
        if not hasattr(self, "ledger"):
            return
        ledger, stats = self.ledger, self.ledger.stats(self.size, 3, 2)
        pending = self.entered - self.answered
        assert (stats.received, stats.pending) == (len(self.entered), len(pending))
        assert (stats.completed, stats.failed) == (self.completed, sum(self.errors.values()))
        assert (stats.queued, stats.in_flight) == (len(self.waiting), len(self.flying))
        assert stats.waiting == min(self.size, len(self.waiting))
        assert dict(stats.errors) == self.errors
        assert set(ledger.open_asks()) == pending
        assert ledger.unanswered == len(pending)
        assert ledger.is_idle is (not pending and not self.flying)
        assert all(histogram.count == self.completed for histogram in stats.phases.values())
        assert all(letter.settled is (letter in self.answered) for letter in self.entered)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = SETTINGS
