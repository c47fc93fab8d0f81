"""The mailbox: which message is launched next. It outlives the thread that reads it, and its successors."""

from __future__ import annotations

import queue
from collections.abc import Callable

from flashactor.actor.ask import Ask
from flashactor.actor.failures import dependency_error
from flashactor.actor.lanes import Lanes
from flashactor.actor.ledger import Ledger
from flashactor.errors import FlashAttnError
from flashactor.executors.base import Executor, Marker

BURST = 64
"""Messages that are looked at before one of them is launched: enough for priorities to mean something, few
enough that the first of a thousand need not wait for the last."""

Admit = Callable[[Ask], bool]
Refuse = Callable[[Ask, FlashAttnError], None]


class Mailbox:
    """What waits to be launched, in order.

    Messages and signals come through ``put`` and ``wake``, from any thread. Everything else is the business
    of the one thread that reads: it has a message prepared (``admit``) as soon as there is room for it, and
    hands it out when its turn has come, it is ready, and there is a place for it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._arrivals: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._admitted: Lanes[Ask] = Lanes()
        self._waiting: Lanes[Ask] = Lanes()
        self._halted = False
        self._taken: Ask | None = None  # the last that was given to ``admit``
        # Whether some messages have a priority or a caller: set by who puts one, before it does.
        self.in_lanes = False
        self._executor: Executor
        self._admit: Admit
        self._refuse: Refuse
        self.put = self._arrivals.put
        ledger.on_change = self.wake

    @property
    def waiting(self) -> int:
        """Number of messages outside of the full mailbox."""
        return len(self._waiting)

    def wake(self) -> None:
        """Have the reader look again."""
        self._arrivals.put(None)

    def halt(self) -> None:
        """Hand out nothing until there is another executor; by any thread."""
        self._halted = True

    def serve(self, executor: Executor, admit: Admit, refuse: Refuse) -> None:
        """The calling thread reads from now on, for an executor.

        Args:
            executor: who will launch the messages. What an earlier one prepared is prepared again.
            admit: prepares a message; False if it answered it instead.
            refuse: answers a message with an error.
        """
        self._executor, self._admit, self._refuse, self._halted = executor, admit, refuse, False
        taken = self._taken
        if taken is not None and not (taken.settled or taken.launched or taken in list(self._admitted)):
            # The thread before this one was stuck preparing it, and was left.
            self._admitted.push(taken)  # behind its caller's others, which came before it
        for ask in list(self._admitted):
            if not admit(ask):
                self._admitted.discard(ask)

    def next(self) -> Ask | None:
        """The message to launch now; None if there is none."""
        if not (self._admitted.length or self._waiting.length or self.in_lanes):
            ask = self._next_arrival()
            if ask is not None or not self._admitted.length:
                return ask
            # A kernel may have ended while messages were taken in, and they have swallowed its wake.
        self._take_in_burst()
        if self._waiting.length:
            self._admit_waiting()
        if self._halted or len(self._ledger.in_flight) >= self._ledger.places:
            return None
        # Whatever ``admit`` raises, nothing has been taken out yet that would be lost.
        ask = self._admitted.pop(self._may_leave)
        if ask is None:
            self._on_nothing_to_launch()
        return ask

    def wait(self) -> Ask | None:
        """Block until something has changed. If that is a message to launch at once: the message."""
        ask = self._arrivals.get()
        if ask is None:
            return None
        in_the_way = self._admitted.length or self._waiting.length or self.in_lanes or self._halted
        if not in_the_way and len(self._ledger.in_flight) < self._ledger.places:
            return self._pass_through(ask)
        self._take_in(ask)
        return None

    def put_back(self, ask: Ask) -> None:
        """Take in again what was handed out and not launched: it is the next of its caller."""
        self._admitted.push(ask, front=True)

    def _next_arrival(self) -> Ask | None:
        """``next``, as long as nothing waits and all come from one caller: then no lanes are needed."""
        arrivals, ledger = self._arrivals, self._ledger
        while len(ledger.in_flight) < ledger.places and not (self._halted or arrivals.empty()):
            ask = arrivals.get()
            if ask is not None and self._pass_through(ask) is not None:
                return ask
            if self._admitted.length:
                return None
        if not arrivals.empty():
            self._take_in_burst()
        return None

    def _pass_through(self, ask: Ask) -> Ask | None:
        """Take a message in that nothing is in the way of: it, if it can be launched at once."""
        if ask.settled:
            return None
        if ask.gate is not None:
            ask.open_gate()
        self._taken = ask
        if self._admit(ask):
            if self._may_leave(ask):
                return ask
            self._admitted.push(ask)
        return None

    def _on_nothing_to_launch(self) -> None:
        if self._waiting:
            self._break_circles()
        elif not self._admitted and self._arrivals.empty():
            self.in_lanes = self._ledger.tells_all = False

    def _take_in_burst(self) -> None:
        arrivals = self._arrivals
        for _ in range(BURST):
            if arrivals.empty():
                return
            self._take_in(arrivals.get())

    def _take_in(self, ask: Ask | None) -> None:
        if ask is None:
            return
        if ask.settled:  # now or before: those that are settled come again, to be taken out
            ask.work = None
            if not self._admitted.discard(ask):
                self._waiting.discard(ask)
            self._admit_waiting()
        elif self._waiting or len(self._admitted) >= self._ledger.size:
            self._waiting.push(ask)
        else:
            self._let_in(ask)

    def _admit_waiting(self) -> None:
        while self._waiting and len(self._admitted) < self._ledger.size:
            self._admit_one_waiting()

    def _admit_one_waiting(self) -> None:
        ask = self._waiting.pop(_always)
        if ask is not None and not ask.settled:
            self._let_in(ask)

    def _let_in(self, ask: Ask) -> None:
        ask.open_gate()
        self._taken = ask
        if self._admit(ask):
            self._admitted.push(ask)

    def _break_circles(self) -> None:
        """Let one more in where all that is in may wait for what is outside (``after=``)."""
        circular = self._ledger.tells_all = any(ask.after for ask in self._admitted)
        if circular and not self._ledger.in_flight:
            self._admit_one_waiting()
            self.wake()

    def _may_leave(self, ask: Ask) -> bool:
        if ask.after and not self._is_in_order(ask):
            return False
        work = ask.work
        if work is None:  # answered a moment ago: it need not wait for anything; or else for another executor
            return ask.settled
        return work.ready

    def _is_in_order(self, ask: Ask) -> bool:
        """Whether what a message has to run after is launched; else, without a device, whether it is done."""
        markers: list[Marker] = []
        for other in ask.after:
            launch, done = other.launched, other.done
            if not launch.done:
                return False
            cause = other.error or launch.error
            if cause is not None:
                self._refuse(ask, dependency_error(cause))
                return True
            if done:  # by now its event may be one of a context that is lost
                continue
            marker = launch.result()
            if marker is None or not self._executor.waits_on_device:
                return False
            markers.append(marker)
        if ask.work is not None:
            ask.work.after = tuple(markers)
        return True


def _always(_ask: Ask) -> bool:
    return True
