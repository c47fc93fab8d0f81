"""For tests of code that uses flashactor: no GPU, no kernels, and failures on demand.

Names load when they are used: pytest imports this package in every run wherever flashactor is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashactor.testing.fault_injection import FaultInjectingExecutor
    from flashactor.testing.faults import Fault, FaultKind, FaultPlan, Injected
    from flashactor.testing.line import Gate
    from flashactor.testing.match import Matching, matching
    from flashactor.testing.recorder import Launch, Recorder
    from flashactor.testing.script import ScriptedExecutor

__all__ = [
    "Fault",
    "FaultInjectingExecutor",
    "FaultKind",
    "FaultPlan",
    "Gate",
    "Injected",
    "Launch",
    "Matching",
    "Recorder",
    "ScriptedExecutor",
    "matching",
]

_HOMES = {
    "Fault": "faults",
    "FaultInjectingExecutor": "fault_injection",
    "FaultKind": "faults",
    "FaultPlan": "faults",
    "Gate": "line",
    "Injected": "faults",
    "Launch": "recorder",
    "Matching": "match",
    "Recorder": "recorder",
    "ScriptedExecutor": "script",
    "matching": "match",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
