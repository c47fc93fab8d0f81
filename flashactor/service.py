"""Wiring: ``FlashAttnActor.start`` picks the concrete executor and starts an actor around it."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Self, cast

from flashactor.actor.census import ACTORS
from flashactor.actor.closing import Closing
from flashactor.actor.handle import ActorHandle
from flashactor.actor.messages import FlashAttnMsg, FlashAttnProps
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.actor.supervised_kernels import SupervisedKernels
from flashactor.actor.supervisor import Supervisor
from flashactor.dispatch import DispatchKey
from flashactor.errors import RequestError
from flashactor.executors.base import Executor, Work
from flashactor.executors.mock import MockExecutor
from flashactor.executors.select import ExecutorOptions, make_executor
from flashactor.settings import Settings
from flashactor.trace import KeyTrace
from flashactor.types import Completion

ExecutorChoice = str | Executor | Callable[[], Executor] | None


class FlashAttnActor(ActorHandle, Closing):
    """A running attention service: messages in, replies out, in order.

    ``ask`` and ``tell`` may be called from any thread and from coroutines. Use it as a context manager
    (``async with`` in coroutines), or call ``stop`` or ``aclose``.
    """

    def __init__(
        self,
        props: FlashAttnProps,
        make_executor: Callable[[], Executor],
        *,
        supervisor: Supervisor | None = None,
        trace: KeyTrace | None = None,
    ) -> None:
        """Start an actor around executors of your own; ``start`` picks one by name, and traces keys."""
        self._trace = trace
        self._own_supervisor = None if supervisor else Supervisor(props.label)
        record = None if trace is None else trace.record
        super().__init__(props, make_executor, supervisor or cast(Supervisor, self._own_supervisor), record)
        ACTORS.enter(self)
        if not self.is_alive:  # it ended while it started: its supervisor has lost the device
            ACTORS.leave(self)

    @classmethod
    def start(
        cls,
        props: FlashAttnProps | None = None,
        executor: ExecutorChoice = None,
        *,
        supervisor: Supervisor | None = None,
    ) -> Self:
        """Start an actor.

        Args:
            props: label, limits and default executor.
            executor: a name from ``registry.list()``, an executor of your own, or a function that makes
                them, so that one that fails can be replaced; default: that of ``props``.
                ``auto`` is what FLASHACTOR_EXECUTOR or the registry says, else ``cuda`` where there is a
                device, else ``reference``; never ``mock``.
            supervisor: that of a device (``DeviceActor`` passes it); default: one of its own.

        Raises:
            UnknownImplementationError: no executor of that name.
            RequestError: an argument is none, or the function has made something that is no Executor.
            DeviceUnavailableError: ``cuda`` on a machine without a device; FLASHACTOR_METRICS_PORT without
                prometheus_client.
        """
        chosen_props = FlashAttnProps() if props is None else props
        if not isinstance(chosen_props, FlashAttnProps):
            raise _wrong_type("props", props, "a FlashAttnProps, or nothing")
        if supervisor is not None and not isinstance(supervisor, Supervisor):
            raise _wrong_type("supervisor", supervisor, "nothing: DeviceActor.spawn passes its own")
        settings = Settings.from_environment()
        make = _maker(chosen_props.executor if executor is None else executor, chosen_props, settings)
        trace = KeyTrace(settings.trace_keys) if settings.trace_keys else None
        _serve_endpoints(settings)  # first: it raises where a library for it is missing
        actor = cls(_observed(chosen_props, settings), make, supervisor=supervisor, trace=trace)
        if trace is not None:
            trace.arch = actor._life.executor.arch
        return actor

    @staticmethod
    def mock_props(props: FlashAttnProps | None = None) -> FlashAttnProps:
        """The same props for an actor that computes nothing: every ask ends in MockModeError."""
        return replace(props or FlashAttnProps(), executor="mock")

    @staticmethod
    def inspect_key(msg: FlashAttnMsg) -> DispatchKey:
        """The key of a message, without launching anything."""
        return msg.dispatch_key()

    @property
    def seen(self) -> tuple[Work, ...]:
        """What a mock actor was given, oldest first: request, key and kernel name of each message.

        Raises:
            RequestError: the executor is not a mock.
        """
        executor = self._life.executor
        if not isinstance(executor, MockExecutor):
            raise RequestError(
                field="seen",
                got=f"an actor on the {self.executor_name!r} executor",
                expected="a mock",
                remedy="start the actor with executor='mock'",
            )
        return tuple(executor.seen)

    def _on_end(self) -> None:
        ACTORS.leave(self)
        if self._own_supervisor is not None:
            self._own_supervisor.stop()
        if self._trace is not None:
            self._trace.close()


def live_actors() -> list[FlashAttnActor]:
    """The actors of this process that are started and not stopped, oldest first."""
    return cast(list[FlashAttnActor], ACTORS.live())


def _maker(chosen: ExecutorChoice, props: FlashAttnProps, settings: Settings) -> Callable[[], Executor]:
    """A function that makes an actor's executors: the same again where the caller has but one."""
    if isinstance(chosen, str):
        name = chosen
        options = ExecutorOptions(settings, kernel_source, props.device, Completion(props.completion))
        return lambda: make_executor(name, options)
    if isinstance(chosen, Executor):
        executor = _checked(chosen)
        return lambda: executor
    if callable(chosen):
        make = chosen
        return lambda: _checked(make())
    raise _wrong_type("executor", chosen, "a name, an Executor, or a function that makes one")


def _checked(executor: object) -> Executor:
    """An executor of the user's own, which has what an actor needs at once."""
    if not isinstance(executor, Executor):
        raise _wrong_type("executor", executor, "an Executor, also from a function that makes them")
    if not isinstance(getattr(executor, "name", None), str):
        raise _wrong_type("executor", executor, "an Executor whose class has a name, such as name = 'mine'")
    return executor


def _observed(props: FlashAttnProps, settings: Settings) -> FlashAttnProps:
    """Props whose actor also logs each request, where the settings ask for that much."""
    if settings.log_level.lower() != "debug":
        return props
    from flashactor.telemetry.request_log import RequestLog

    return replace(props, observers=(*props.observers, RequestLog()))


def _serve_endpoints(settings: Settings) -> None:
    if settings.metrics_port is not None:
        from flashactor.telemetry import metrics

        metrics.serve_once(settings)
    if settings.monitor:
        from flashactor.telemetry import monitor

        monitor.serve_once(settings)


def kernel_source(settings: Settings | None = None) -> SupervisedKernels:
    """Where all actors of the process get kernels of the cache that the settings describe (default: the
    environment's), so that a kernel that several of them want is compiled once.

    The compile actor behind it lives as long as the process; start an ``NvrtcActor`` of your own for one that
    stops.

    Raises:
        CachePermissionError: the cache's folder is none, or others may write it.
    """
    chosen = replace(
        settings or Settings.from_environment(),
        executor="",
        log_level="",
        trace_keys=None,
        metrics_port=None,
        monitor=False,
    )
    with _kernel_sources_lock:
        source = _kernel_sources.get(chosen)
        if source is None:
            source = SupervisedKernels(partial(_start_nvrtc_actor, chosen), Supervisor("compiler"))
            _kernel_sources[chosen] = source
        return source


def nvrtc_actors() -> list[NvrtcActor]:
    """The process's own compile actors, also those that have ended: what they counted counts."""
    return list(_nvrtc_actors)


def _start_nvrtc_actor(settings: Settings) -> NvrtcActor:
    from flashactor.cache import CubinCache

    actor = NvrtcActor(CubinCache.from_settings(settings))
    _nvrtc_actors.append(actor)
    return actor


_kernel_sources: dict[Settings, SupervisedKernels] = {}
_kernel_sources_lock = threading.Lock()
_nvrtc_actors: list[NvrtcActor] = []


def _forget_actors() -> None:
    """In a forked child, which has none of the parent's threads."""
    global _kernel_sources_lock
    _kernel_sources_lock = threading.Lock()
    _kernel_sources.clear()
    _nvrtc_actors.clear()
    ACTORS.forget()


os.register_at_fork(after_in_child=_forget_actors)


def _stop_at_exit() -> None:
    """Answer whoever still waits: their threads are the last that run."""
    for actor in live_actors():
        actor.stop(drain=False)


atexit.register(_stop_at_exit)


def _wrong_type(field: str, got: object, expected: str) -> RequestError:
    return RequestError(
        field=field,
        got=repr(got),
        expected=expected,
        remedy="write FlashAttnActor.start(FlashAttnProps(label=...), executor='auto')",
    )
