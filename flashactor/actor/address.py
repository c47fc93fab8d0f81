"""What one sends messages to: from the arguments of ``ask`` to a message in the mailbox, or its refusal."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypedDict, Unpack

from flashactor.actor.ask import NO_WISHES, Ask, Desk, Wishes
from flashactor.actor.batch import PendingReplies, collected
from flashactor.actor.blocking import on_event_loop, waiting_for, would_deadlock
from flashactor.actor.deadlines import deadlines
from flashactor.actor.failures import full_error, timeout_error, unkept_error
from flashactor.actor.lanes import Caller
from flashactor.actor.ledger import TAKEN, Entry, Ledger
from flashactor.actor.mailbox import Mailbox
from flashactor.actor.messages import FlashAttnMsg, FlashAttnProps, Overflow
from flashactor.actor.reply import AttentionReply, PendingReply, to_seconds
from flashactor.errors import BlockingAskError, FlashAttnError, RequestError
from flashactor.requests import AttentionRequest
from flashactor.streams import stream_address
from flashactor.types import is_count

_PLAIN = (str, int, bytes)
"""Types of callers that compare without running code of the application's."""

After = PendingReply[Any] | Iterable[PendingReply[Any]] | None


class AskOptions(TypedDict, total=False):
    """The options of ``Address.ask``; see there."""

    timeout: float | None
    priority: int
    caller: Hashable
    after: After
    stream: object


class Address(ABC):
    """Takes messages, from any thread and from coroutines, and says no where it must.

    Attributes:
        props: limits, and what happens beyond them.
    """

    def __init__(self, props: FlashAttnProps) -> None:
        self.props = props
        self._ledger = Ledger(props.max_in_flight, props.mailbox_size)
        self._mailbox = Mailbox(self._ledger)
        self._desk = Desk(props.label, self._ledger, props.observers, self._on_told_failure)
        self._desk.settled_early = self._mailbox.put
        self._log = self._desk.log

    @abstractmethod
    def _refusal(self) -> BaseException:
        """The answer to a message that comes after the end."""

    def ask(
        self,
        msg: FlashAttnMsg,
        *,
        timeout: float | None = None,
        priority: int = 0,
        caller: Hashable = None,
        after: After = None,
        stream: object = None,
    ) -> PendingReply[AttentionReply]:
        """Send a message. ``await`` the result in a coroutine, or call ``.result(timeout)`` in a thread.

        Whatever goes wrong is raised there, never here. With a full mailbox, and ``overflow="wait"``, a
        thread waits here until there is room.

        Args:
            msg: the request.
            timeout: seconds from now; then it is answered with AskTimeoutError, and dropped if it is not
                launched.
            priority: higher goes first.
            caller: whose it is, anything hashable. Messages of one caller and priority are launched in the
                order of the asks; callers take turns.
            after: replies, also of other actors, whose work has to come first in time: this is launched
                behind it, where both are on devices without the host waiting in between.
            stream: the caller's, as an address or an object with ``__cuda_stream__`` (torch's and cupy's
                streams, too): the work waits for what is enqueued there, and what is enqueued there after
                the launch (``reply.launched``) waits for the work.
        """
        ask = Ask(self._desk, None)
        pending: PendingReply[AttentionReply] = PendingReply(ask)
        ask.pending = pending
        self._send(ask, msg, timeout, priority, caller, after, stream)
        return pending

    def tell(self, msg: FlashAttnMsg, **options: Unpack[AskOptions]) -> None:
        """Send a message and forget it; a failure is logged and counted in ``stats().failed``.

        Args:
            msg: the request.
            options: those of ``ask``.
        """
        self._send(Ask(self._desk, None), msg, **options)

    def ask_many(
        self,
        msgs: Iterable[FlashAttnMsg],
        *,
        return_errors: bool = False,
        **options: Unpack[AskOptions],
    ) -> PendingReplies:
        """Send several messages; ``await`` gives the list of their replies, in order.

        Args:
            msgs: the requests.
            return_errors: put errors into the list, rather than raise the first one.
            options: those of ``ask``, for each of them.

        Raises:
            RequestError: these are no messages. What their iterator raises comes out too; what was sent
                before is cancelled then.
        """
        messages = several(msgs)
        options["after"] = again_and_again(options.get("after"))
        return collected((self.ask(msg, **options) for msg in messages), return_errors=return_errors)

    def _send(
        self,
        ask: Ask,
        msg: FlashAttnMsg,
        timeout: float | None = None,
        priority: int = 0,
        caller: Hashable = None,
        after: After = None,
        stream: object = None,
    ) -> None:
        refusal: FlashAttnError | None = None
        try:
            if not isinstance(msg, FlashAttnMsg):
                raise _option_error("msg", type(msg).__name__, "a FlashAttnMsg")
            ask.request = msg.request
            if not isinstance(ask.request, AttentionRequest):
                raise _option_error("msg.request", type(ask.request).__name__, "an attention request")
            modest = timeout is None and type(priority) is int and priority == 0
            if not (modest and caller is None and after is None and stream is None):
                self._read_wishes(ask, timeout, priority, caller, after, stream)
        except FlashAttnError as error:
            refusal = error.with_traceback(None)  # its frames would keep the request alive
        except Exception as error:  # of the caller's own objects
            refusal = _option_error("ask", f"{type(error).__name__}: {error}", "options that can be read")
            refusal.__cause__ = error
        if self._desk.observers:
            ask.tell("asked")
        try:
            entry = self._ledger.enter(ask)
            if entry is TAKEN and refusal is None and ask.wishes is NO_WISHES:
                self._mailbox.put(ask)
            else:
                self._deliver(ask, entry, refusal)
                refusal = None  # its cause may have this frame
        except BaseException:  # KeyboardInterrupt: the caller will never have the reply
            ask.cancel()
            raise

    def _read_wishes(
        self,
        ask: Ask,
        timeout: float | None,
        priority: int,
        caller: Hashable,
        after: After,
        stream: object,
    ) -> None:
        ask.wishes = Wishes(
            _priority(priority),
            None if caller is None else _caller(caller),
            None if stream is None else stream_address(stream),
            None if timeout is None else to_seconds("timeout", timeout),
            stream,
        )
        if after is not None:
            ask.after = _after(after)
        if ask.priority != 0 or caller is not None:
            self._mailbox.in_lanes = True

    def _deliver(self, ask: Ask, entry: Entry, refusal: FlashAttnError | None) -> None:
        """Put a message into the mailbox now or when there is room, or answer it."""
        timeout = ask.wishes.timeout
        if refusal is not None:
            ask.fail(refusal, mailed=False)
        elif entry is Entry.CLOSED:
            ask.fail(self._refusal(), mailed=False)
        elif entry is Entry.FULL and self.props.overflow is Overflow.FAIL:
            ask.fail(full_error(self._ledger.size), mailed=False)
        elif timeout is not None and timeout <= 0.0:
            ask.fail(timeout_error(timeout, launched=False), mailed=False)
        elif timeout is None or self._has_deadline(ask, timeout):
            for other in ask.after:
                other.launched.add_done_callback(self._on_dependency)
                other.add_done_callback(self._on_dependency)
            if entry is TAKEN or on_event_loop():
                self._mailbox.put(ask)
            else:
                self._wait_for_room(ask)

    def _has_deadline(self, ask: Ask, timeout: float) -> bool:
        """Set a message's deadline; False if it is answered, because no thread can be started for that."""
        try:
            deadlines.add(ask.asked_at + timeout, ask)
        except RuntimeError as error:
            ask.fail(unkept_error(error))
            return False
        return True

    def _wait_for_room(self, ask: Ask) -> None:
        """Block until a message is in the mailbox, or answered."""
        if would_deadlock(self._desk):
            ask.fail(full_error(self._ledger.size, ", on a thread that would make room"))
            return
        gate = ask.gate = threading.Event()
        self._mailbox.put(ask)
        try:
            with waiting_for(self._desk):
                if not ask.settled:  # else perhaps before there was a gate to open
                    gate.wait()
        except BlockingAskError as error:
            ask.fail(error)

    def _on_dependency(self, _reply: PendingReply[Any]) -> None:
        self._mailbox.wake()

    def _on_told_failure(self, ask: Ask, error: BaseException) -> None:
        self._log.error(
            "tell.failed",
            error=str(error),
            error_type=type(error).__name__,
            request_id=ask.request_id,
            kernel_name=ask.kernel_name,
        )


def several(msgs: Iterable[FlashAttnMsg]) -> Iterator[FlashAttnMsg]:
    """The messages of ``ask_many``.

    Raises:
        RequestError: they are none.
    """
    try:
        return iter(msgs)
    except TypeError:
        raise _option_error("msgs", type(msgs).__name__, "messages, such as a list of them") from None


def again_and_again(after: After) -> After:
    """What each of several messages comes after: an iterator would give it to the first one alone."""
    if isinstance(after, PendingReply) or not isinstance(after, Iterable):
        return after
    return tuple(after)


def _priority(priority: Any) -> int:
    if not is_count(priority, -(2**31)):
        raise _option_error("priority", repr(priority), "an integer of at least -2**31")
    return int(priority)


def _caller(caller: Hashable) -> Hashable:
    if type(caller) in _PLAIN:
        return caller
    try:
        return Caller(caller)
    except TypeError:
        raise _option_error("caller", repr(caller), "anything hashable") from None


def _after(after: Any) -> tuple[PendingReply[Any], ...]:
    found = (after,) if isinstance(after, PendingReply) else after
    try:
        replies = tuple(found)
    except TypeError:
        replies = (found,)
    for reply in replies:
        if not isinstance(reply, PendingReply):
            raise _option_error("after", repr(reply), "replies that ask() returned")
    return replies


def _option_error(field: str, got: str, expected: str) -> RequestError:
    return RequestError(
        field=field,
        got=got,
        expected=expected,
        remedy="write actor.ask(FlashAttnMsg.forward(request), ...)",
    )
