"""Plants a fault into a copy of the kernel sources, compiles it, runs it, and names what catches it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from planted import COMPILE, CONFLICTS, DISAGREE, LAUNCH, SPILLS, Fault

from flashactor.cache import CubinCache
from flashactor.check.case import Case
from flashactor.check.cases import cases_of
from flashactor.check.emulated import check_case, check_memory_access
from flashactor.check.static import record_findings
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.compiler.source import sources_root
from flashactor.errors import CompileError, LaunchError

MAX_STEPS = 4000
"""Basic blocks after which a kernel that does not end is given up: the others take some hundreds."""


@dataclass(frozen=True)
class Caught:
    """What caught a fault: ``kind`` is one of the names in ``planted.py``, or "" for nothing."""

    kind: str
    detail: str = ""


def plant(fault: Fault, folder: Path) -> Path:
    """A copy of the sources with the fault in it."""
    root = shutil.copytree(sources_root(), folder / "kernels_cu")
    for edit in fault.edits:
        path = root / edit.file
        text = path.read_text()
        assert edit.old != edit.new
        assert text.count(edit.old) == edit.times, (
            f"{edit.file} has {text.count(edit.old)} of these, not {edit.times}: {edit.old}"
        )
        path.write_text(text.replace(edit.old, edit.new))
    return root


def outcome(fault: Fault, folder: Path) -> Caught:
    """What catches the fault; one that does not compile is an error unless the compiler is to catch it."""
    root = plant(fault, folder)
    if fault.caught == SPILLS:
        return _compiled(fault, folder / "cubins", root)
    try:
        ptx = compile_ptx(fault.spec, root=root, line_info=True)
    except CompileError as error:
        if fault.caught != COMPILE:
            raise
        return Caught(COMPILE, str(error))
    return judged(fault, ptx)


def _compiled(fault: Fault, cache: Path, root: Path) -> Caught:
    """What ptxas says of a kernel that is not to be run."""
    record = CubinCache(cache, root=root).get_or_compile(fault.spec).record
    failed = [finding for finding in record_findings(fault.spec, record) if not finding.ok]
    return Caught(failed[0].check, failed[0].detail) if failed else Caught("")


def case_of(fault: Fault) -> Case:
    """The case that a fault is tried on."""
    (case,) = (case for case in cases_of(fault.spec) if case.name == fault.case)
    return case


def judged(fault: Fault, ptx: str) -> Caught:
    """What a kernel does on the case of a fault."""
    case = case_of(fault)
    if fault.caught == CONFLICTS:
        finding = check_memory_access(case, ptx)
        return Caught("" if finding.ok else CONFLICTS, finding.detail)
    try:
        finding = check_case(case, ptx, races=fault.races, schedule="min", max_steps=MAX_STEPS)
    except LaunchError as error:
        return Caught(LAUNCH, str(error))
    return Caught("" if finding.ok else _kind(finding.detail), finding.detail)


def _kind(detail: str) -> str:
    """What a finding says first."""
    if detail.startswith(DISAGREE):
        return DISAGREE
    start = detail.partition(":")[0]
    return "wrong " + start.partition("[")[0] if "[" in start else start
