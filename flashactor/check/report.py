"""All that is checked of one kernel, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from flashactor.cache import CubinCache
from flashactor.check.emulated import emulated_findings
from flashactor.check.findings import Finding
from flashactor.check.static import static_findings
from flashactor.errors import CacheMissError, CompileError, DeviceUnavailableError, FlashAttnError
from flashactor.executors.emulator import kernel_ptx
from flashactor.kernels.spec import KernelSpec
from flashactor.settings import Settings


@dataclass(frozen=True, slots=True)
class Halves:
    """Which checks to run.

    Attributes:
        static: those of the cubin.
        emulated: those that run the PTX.
        races: whether the emulation also looks for data races.
        every_schedule: whether every case runs under every schedule, not only those that are made for it.
        cases: names of the cases that each kernel is tried on, none where it is not listed; None for all.
    """

    static: bool = True
    emulated: bool = True
    races: bool = True
    every_schedule: bool = False
    cases: Mapping[KernelSpec, tuple[str, ...]] | None = None

    def cases_of(self, spec: KernelSpec) -> tuple[str, ...] | None:
        """Names of the cases that a kernel is tried on; None for all."""
        return None if self.cases is None else self.cases.get(spec, ())


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What the checks of one kernel found.

    Attributes:
        spec: the kernel.
        registers: registers of a thread; None if it does not compile.
        spill_bytes: bytes of spill stores and loads; None if it does not compile.
        static: findings of the cubin; empty if they were not asked for.
        emulated: findings of the PTX, one a case; empty if they were not asked for.
        seconds: wall-clock time, compiling included.
    """

    spec: KernelSpec
    registers: int | None
    spill_bytes: int | None
    static: tuple[Finding, ...]
    emulated: tuple[Finding, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are not as they should be."""
        return tuple(finding for finding in (*self.static, *self.emulated) if not finding.ok)

    @property
    def out_error_ratio(self) -> float | None:
        """The worst of the emulated cases."""
        return max((f.out_error_ratio for f in self.emulated if f.out_error_ratio is not None), default=None)

    @property
    def lse_error(self) -> float | None:
        """The worst of the emulated cases."""
        return max((f.lse_error for f in self.emulated if f.lse_error is not None), default=None)


def check_kernel(spec: KernelSpec, settings: Settings, halves: Halves) -> KernelReport:
    """Compile a kernel, or take it from the cache that the settings describe, and check it.

    A kernel that fails to compile, to disassemble or to run in the emulator has a finding that says so.

    Raises:
        DeviceUnavailableError: NVRTC or a tool that reads cubins is not there.
        CachePermissionError: others may write the cache folder, or it is none.
    """
    start = perf_counter()
    static: tuple[Finding, ...] = ()
    emulated: tuple[Finding, ...] = ()
    record = None
    if halves.static:
        try:
            kernel = CubinCache.from_settings(settings).get_or_compile(spec)
            record = kernel.record
            static = static_findings(spec, kernel)
        except (CompileError, CacheMissError) as error:
            static = (_raised("compiles", error),)
    names = halves.cases_of(spec)
    if halves.emulated and names != ():
        try:
            emulated = emulated_findings(
                spec,
                kernel_ptx(spec),
                races=halves.races,
                every_schedule=halves.every_schedule,
                names=names,
            )
        except DeviceUnavailableError:
            raise
        except FlashAttnError as error:
            emulated = (_raised("emulates", error),)
    return KernelReport(
        spec=spec,
        registers=record.registers if record else None,
        spill_bytes=record.spill_bytes if record else None,
        static=static,
        emulated=emulated,
        seconds=perf_counter() - start,
    )


def _raised(check: str, error: FlashAttnError) -> Finding:
    return Finding(check, False, f"{type(error).__name__}: {error}")
