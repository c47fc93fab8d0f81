"""Wiring: ``FlashAttnActor.start`` picks the concrete executor and starts an actor around it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from types import TracebackType
from typing import Self

import pykka

from flashactor.actor.actor import ActorStats, Ask, DispatchActor, Ledger, busy_error, stopped_error
from flashactor.actor.messages import FlashAttnMsg, FlashAttnProps
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.actor.reply import AttentionReply, PendingReply
from flashactor.dispatch import DispatchKey
from flashactor.errors import RequestError
from flashactor.executors.base import Executor, Work
from flashactor.executors.mock import MockExecutor
from flashactor.executors.select import ExecutorOptions, make_executor
from flashactor.settings import Settings
from flashactor.trace import KeyTrace


class FlashAttnActor:
    """A running attention service: messages in, replies out, in order, on one executor.

    ``ask`` and ``tell`` may be called from any thread and from coroutines. Use it as a context manager, or
    call ``stop``.
    """

    def __init__(self, props: FlashAttnProps, executor: Executor, trace: KeyTrace | None = None) -> None:
        """Start an actor around an executor of your own; ``start`` picks one by name, and traces keys."""
        self.props = props
        self._executor = executor
        self._ledger = Ledger()
        self._trace = trace
        self._ref: pykka.ActorRef[DispatchActor] = DispatchActor.start(
            executor, self._ledger, None if trace is None else trace.record
        )

    @classmethod
    def start(cls, props: FlashAttnProps | None = None, executor: str | Executor | None = None) -> Self:
        """Start an actor.

        Args:
            props: label, limits and default executor.
            executor: a name from ``registry.list()``, or an executor of your own; default: that of ``props``.
                ``auto`` is what FLASHACTOR_EXECUTOR or the registry says, else ``cuda`` where there is a
                device, else ``reference``; never ``mock``.

        Raises:
            UnknownImplementationError: no executor of that name.
            DeviceUnavailableError: ``cuda`` on a machine without a device.
        """
        chosen_props = FlashAttnProps() if props is None else props
        if not isinstance(chosen_props, FlashAttnProps):
            raise _wrong_type("props", props, "a FlashAttnProps, or nothing")
        chosen = executor or chosen_props.executor
        if not isinstance(chosen, str) and not hasattr(chosen, "submit"):
            raise _wrong_type("executor", chosen, "a name, or an object with the methods of Executor")
        settings = Settings.from_environment()
        if isinstance(chosen, str):
            options = ExecutorOptions(settings, nvrtc_actor, chosen_props.max_in_flight)
            chosen = make_executor(chosen, options)
        trace = KeyTrace(settings.trace_keys, chosen.arch) if settings.trace_keys else None
        return cls(chosen_props, chosen, trace)

    @staticmethod
    def mock_props(props: FlashAttnProps | None = None) -> FlashAttnProps:
        """The same props for an actor that computes nothing: every ask ends in MockModeError."""
        return replace(props or FlashAttnProps(), executor="mock")

    @staticmethod
    def inspect_key(msg: FlashAttnMsg) -> DispatchKey:
        """The key of a message, without launching anything."""
        return msg.dispatch_key()

    @property
    def executor_name(self) -> str:
        """The name of the executor that ``auto`` or the caller picked."""
        return self._executor.name

    @property
    def is_alive(self) -> bool:
        """Whether messages are still taken."""
        return self._ref.is_alive()

    @property
    def seen(self) -> tuple[Work, ...]:
        """What a mock actor was given, oldest first: request, key and kernel name of each message.

        Raises:
            RequestError: the executor is not a mock.
        """
        if not isinstance(self._executor, MockExecutor):
            raise RequestError(
                field="seen",
                got=f"an actor on the {self._executor.name!r} executor",
                expected="a mock",
                remedy="start the actor with executor='mock'",
            )
        return tuple(self._executor.seen)

    def ask(self, msg: FlashAttnMsg) -> PendingReply[AttentionReply]:
        """Send a message. ``await`` the result in a coroutine, or call ``.result(timeout)`` in a thread.

        Whatever goes wrong is raised there, never here.
        """
        pending: PendingReply[AttentionReply] = PendingReply()
        self._send(msg, pending)
        return pending

    def tell(self, msg: FlashAttnMsg) -> None:
        """Send a message and forget it; a failure is logged and counted in ``stats().failed``."""
        self._send(msg, None)

    def stats(self) -> ActorStats:
        """Counts of messages since the start."""
        return self._ledger.stats()

    def stop(self, timeout: float | None = None) -> None:
        """Compute what was asked so far, then stop; later messages are answered with ActorStoppedError.

        Args:
            timeout: seconds to wait for the end; None waits for ever.

        Raises:
            AskTimeoutError: the actor is still busy; it stops when it is done.
        """
        try:
            self._ref.stop(timeout=timeout)
        except pykka.Timeout:
            raise busy_error(timeout) from None
        finally:
            if self._trace is not None:
                self._trace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _send(self, msg: FlashAttnMsg, pending: PendingReply[AttentionReply] | None) -> None:
        ask = Ask(pending, self._ledger)
        # Before the message can be taken or dropped: whoever stops the actor answers all that is entered,
        # and whoever enters later finds the actor dead. So no message is lost between the two.
        self._ledger.enter(ask)
        try:
            if not isinstance(msg, FlashAttnMsg):
                raise RequestError(
                    field="msg",
                    got=type(msg).__name__,
                    expected="a FlashAttnMsg",
                    remedy="wrap the request: FlashAttnMsg.forward(request)",
                )
            ask.request = msg.request
            self._ref.tell(ask)
        except pykka.ActorDeadError:
            ask.fail(stopped_error())
        except RequestError as error:
            ask.fail(error)


def nvrtc_actor(settings: Settings | None = None) -> NvrtcActor:
    """The process's compile actor for the cache that the settings describe (default: the environment's).

    All actors of a process share it, so that a kernel that several of them want is compiled once. It lives as
    long as the process; start an ``NvrtcActor`` of your own for one that stops.
    """
    chosen = replace(settings or Settings.from_environment(), executor="", log_level="", trace_keys=None)
    with _nvrtc_lock:
        actor = _nvrtc_actors.get(chosen)
        if actor is None or not actor.is_alive:
            from flashactor.cache import CubinCache

            actor = _nvrtc_actors[chosen] = NvrtcActor(CubinCache.from_settings(chosen))
        return actor


_nvrtc_actors: dict[Settings, NvrtcActor] = {}
_nvrtc_lock = threading.Lock()


def _forget_actors() -> None:
    """In a forked child, which has none of the parent's threads."""
    global _nvrtc_lock
    _nvrtc_lock = threading.Lock()
    _nvrtc_actors.clear()


os.register_at_fork(after_in_child=_forget_actors)


def _wrong_type(field: str, got: object, expected: str) -> RequestError:
    return RequestError(
        field=field,
        got=repr(got),
        expected=expected,
        remedy="write FlashAttnActor.start(FlashAttnProps(label=...), executor='auto')",
    )
