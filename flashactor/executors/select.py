"""Which executor a name stands for, and what ``auto`` picks. Concrete executors are imported when chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashactor.errors import UnknownImplementationError
from flashactor.executors.base import Executor, KernelSource
from flashactor.registry import PreferenceStack
from flashactor.settings import Settings
from flashactor.types import Completion


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """What an executor is made with.

    Attributes:
        settings: cache folder and default executor.
        kernels: opens where compiled kernels come from; only executors that launch some call it.
        device: the device, as CUDA_VISIBLE_DEVICES numbers it.
        completion: how the end of a kernel is noticed.
    """

    settings: Settings
    kernels: Callable[[Settings], KernelSource]
    device: int = 0
    completion: Completion = Completion.EVENT


def make_executor(name: str, options: ExecutorOptions) -> Executor:
    """A new executor of a name, ``auto`` included.

    Raises:
        UnknownImplementationError: no executor of that name.
        DeviceUnavailableError: ``cuda`` on a machine without a usable device.
    """
    chosen = auto_executor(options.settings) if name == "auto" else name
    factory = EXECUTORS.get(chosen)
    if factory is None:
        raise UnknownImplementationError(
            field="executor",
            got=repr(chosen),
            expected="auto, " + ", ".join(sorted(EXECUTORS)),
            remedy="start the actor with one of these, or with an executor of your own",
        )
    return factory(options)


def auto_executor(settings: Settings) -> str:
    """What ``auto`` stands for: the activated executor, FLASHACTOR_EXECUTOR, else by device; never mock."""
    if _preference.preferred is not None:
        return _preference.preferred
    if settings.executor != "auto":
        return settings.executor
    from flashactor.executors.cuda import device_count

    return "cuda" if device_count() else "reference"


def _make_mock(options: ExecutorOptions) -> Executor:
    from flashactor.executors.mock import MockExecutor

    return MockExecutor()


def _make_reference(options: ExecutorOptions) -> Executor:
    from flashactor.executors.reference import ReferenceExecutor

    return ReferenceExecutor()


def _make_cuda(options: ExecutorOptions) -> Executor:
    from flashactor.executors.cuda import CudaExecutor

    kernels = options.kernels(options.settings)
    return CudaExecutor(kernels, options.device, completion=options.completion)


def _make_emulator(options: ExecutorOptions) -> Executor:
    from flashactor.executors.emulator import EmulatorExecutor

    return EmulatorExecutor()


EXECUTORS: dict[str, Callable[[ExecutorOptions], Executor]] = {
    "cuda": _make_cuda,
    "emulator": _make_emulator,
    "mock": _make_mock,
    "reference": _make_reference,
}

_preference = PreferenceStack()
for _name in EXECUTORS:
    _preference.register(_name)
