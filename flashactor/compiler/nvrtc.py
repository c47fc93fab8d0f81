"""NVRTC: a kernel's specification in, its cubin out, with what ptxas says of it.

Importing this module loads no CUDA package; the first compile does. Every function may be called from any
thread, and NVRTC compiles in parallel.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from flashactor.compiler.source import translation_unit
from flashactor.errors import CompileError, DeviceUnavailableError
from flashactor.settings import compiler_variables
from flashactor.types import SmArch

# Without line information: it would store the working directory in the cubin, and make it four times larger.
# Without --minimal and --split-compile: neither makes these kernels compile faster.
_STD = "c++17"
_PTXAS = "-v"


_loading = threading.Lock()


def _renew_lock() -> None:
    """In a forked child, where the thread that held the lock may not exist."""
    global _loading
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def load_cuda_packages() -> None:
    """Import what this project uses of cuda.core and cuda.bindings; the first call takes 0.2 s.

    Their modules import each other. Two threads that enter such a circle at different places see half of a
    module, so every thread has to come through here before it imports from them.

    Raises:
        ImportError: they are not installed.
    """
    with _loading:
        import cuda.bindings.nvrtc
        import cuda.core.utils  # noqa: F401


class Compilable(Protocol):
    """What the compiler reads of a ``KernelSpec``."""

    @property
    def source(self) -> str:
        """The file to compile, relative to the sources' root."""

    @property
    def entry(self) -> str:
        """The kernel's name in the cubin."""

    @property
    def arch(self) -> SmArch:
        """The architecture to compile for."""

    @property
    def defines(self) -> tuple[tuple[str, str], ...]:
        """Macros: names and values."""

    @property
    def label(self) -> str:
        """What people call the kernel."""


@dataclass(frozen=True, slots=True)
class PtxasInfo:
    """What ``ptxas -v`` says of a cubin; for several functions, the largest of each.

    Attributes:
        registers: registers of a thread.
        shared_bytes: static shared memory of a thread block.
        stack_bytes: stack frame of a thread.
        spill_store_bytes: bytes of spill stores in the code.
        spill_load_bytes: bytes of spill loads in the code.
    """

    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A cubin and how it was made.

    Attributes:
        cubin: the ELF image that the driver loads.
        registers: registers of a thread.
        shared_bytes: static shared memory of a thread block; what the launch reserves comes on top.
        spill_store_bytes: bytes of spill stores in the code.
        spill_load_bytes: bytes of spill loads in the code.
        stack_bytes: stack frame of a thread.
        log: warnings of the compiler and of ptxas, "" when there is none.
        compile_seconds: wall-clock time in NVRTC.
        nvrtc_version: as ``nvrtc_version()``.
    """

    cubin: bytes
    registers: int
    shared_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    log: str
    compile_seconds: float
    nvrtc_version: str


def options(spec: Compilable) -> tuple[str, ...]:
    """The options that NVRTC compiles this kernel's cubin with, in order; they enter the cache key."""
    return (
        f"-arch={spec.arch.target}",
        f"--ptxas-options={_PTXAS}",
        *(f"--define-macro={name}={value}" for name, value in spec.defines),
        f"--std={_STD}",
    )


@cache
def nvrtc_version() -> str:
    """The version of the NVRTC library that this process loads, such as ``13.5 (wheel 13.5.37)``.

    The library itself knows no patch level. That of the wheel counts if the library is the wheel's; of
    another one, its file's name says it, such as ``13.4 (libnvrtc.so.13.4.92)``. Variables of the environment
    that change the code which NVRTC makes follow.

    Raises:
        DeviceUnavailableError: there is no NVRTC library.
    """
    with _nvrtc_required():
        load_cuda_packages()
        from cuda.bindings import nvrtc
        from cuda.pathfinder import load_nvidia_dynamic_lib

        _, major, minor = nvrtc.nvrtcVersion()
        library = Path(load_nvidia_dynamic_lib("nvrtc").abs_path or "unknown").resolve()
    return f"{major}.{minor} ({', '.join((_patch_level(library), *compiler_variables()))})"


def _patch_level(library: Path) -> str:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        wheel = distribution("nvidia-cuda-nvrtc")
    except PackageNotFoundError:
        return library.name
    folder = Path(str(wheel.locate_file(""))).resolve()
    return f"wheel {wheel.version}" if library.is_relative_to(folder) else library.name


def compile_cubin(spec: Compilable, *, root: Path | None = None) -> CompiledKernel:
    """Compile a kernel for its architecture.

    Args:
        spec: what to compile.
        root: folder of the sources (default: ``sources_root()``).

    Raises:
        CompileError: NVRTC or ptxas refused the source, or a source file is missing.
        DeviceUnavailableError: there is no NVRTC library.
    """
    code, found = translation_unit(spec.source, root), nvrtc_version()
    with _nvrtc_required():
        from cuda.core import Program
    log = io.StringIO()
    start = perf_counter()
    try:
        # The program has no name here: a traceback would keep it, and cuda.core complains when the garbage
        # collector frees one.
        cubin = bytes(Program(code, "c++", program_options(spec)).compile("cubin", logs=log).code)
    except Exception as error:
        if "NVRTC_ERROR_" not in str(error):  # cuda.core does not export the type
            raise
        raise _compile_error(spec, str(error).partition("compilation log:")[2] or str(error)) from error
    elapsed = perf_counter() - start
    info, remarks = parse_log(log.getvalue())
    return CompiledKernel(
        cubin=cubin,
        registers=info.registers,
        shared_bytes=info.shared_bytes,
        spill_store_bytes=info.spill_store_bytes,
        spill_load_bytes=info.spill_load_bytes,
        stack_bytes=info.stack_bytes,
        log=remarks,
        compile_seconds=elapsed,
        nvrtc_version=found,
    )


def program_options(spec: Compilable) -> Any:
    """``options(spec)`` as the ``cuda.core.ProgramOptions`` that spells them."""
    from cuda.core import ProgramOptions

    return ProgramOptions(
        name=spec.source,
        arch=spec.arch.target,
        ptxas_options=[_PTXAS],
        define_macro=list(spec.defines),
        std=_STD,
    )


def compile_ptx(spec: Compilable, *, root: Path | None = None, line_info: bool = False) -> str:
    """The kernel's PTX, for people to read, tests to search and the emulator to run.

    Args:
        spec: what to compile.
        root: folder of the sources (default: ``sources_root()``).
        line_info: whether the text says which line of the source each instruction comes from.

    Raises:
        CompileError: NVRTC refused the source, or a source file is missing.
        DeviceUnavailableError: there is no NVRTC library.
    """
    code = translation_unit(spec.source, root)
    nvrtc_version()
    # Not through cuda.core: its path to PTX asks the driver whether it could load the result.
    from cuda.bindings import nvrtc

    virtual = spec.arch.target.replace("sm_", "compute_")
    flags = [f"-arch={virtual}", *(o for o in options(spec)[1:] if not o.startswith("--ptxas-options"))]
    if line_info:
        flags.append("--generate-line-info")
    _, program = nvrtc.nvrtcCreateProgram(code.encode(), spec.source.encode(), 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise _compile_error(spec, _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program))
        ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
        # NVRTC puts the working directory before the names in #line, which are relative to the sources' root.
        return ptx.replace(f'"{Path.cwd()}/', '"')
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(size_of: Any, read: Any, program: Any) -> str:
    _, size = size_of(program)
    buffer = bytearray(size)
    read(program, buffer)
    return buffer.decode(errors="replace").rstrip("\0")


_INFO = {
    "registers": re.compile(r"\bUsed (\d+) registers"),
    "shared_bytes": re.compile(r"\b(\d+) bytes smem"),
    "stack_bytes": re.compile(r"\b(\d+) bytes stack frame"),
    "spill_store_bytes": re.compile(r"\b(\d+) bytes spill stores"),
    "spill_load_bytes": re.compile(r"\b(\d+) bytes spill loads"),
}
# Only these lines are dropped, not every "ptxas info": ptxas reports serialised wgmma (C7510) as info too.
_ROUTINE = re.compile(
    r"ptxas (info\s+: (\d+ bytes gmem|Compiling entry function |Function properties for |Used \d+ registers"
    r"|Compile time = )|\s+\.\s+\d+ bytes stack frame)"
)
_NOTE_ON_WARNINGS = 'Remark: The warnings can be suppressed with "-diag-suppress <warning-number>"'


def parse_log(log: str) -> tuple[PtxasInfo, str]:
    """NVRTC's log as the figures of ``ptxas -v``, and all that is no such figure: the warnings."""
    figures = dict.fromkeys(_INFO, 0)
    remarks = []
    for line in log.replace("\0", "").splitlines():
        if _ROUTINE.match(line):
            for name, pattern in _INFO.items():
                if found := pattern.search(line):
                    figures[name] = max(figures[name], int(found[1]))
        elif line.strip() != _NOTE_ON_WARNINGS:
            remarks.append(line.rstrip())
    return PtxasInfo(**figures), re.sub(r"\n{3,}", "\n\n", "\n".join(remarks)).strip("\n")


_POSITION = re.compile(r"^(?P<line>\S+\(\d+\)): (?:catastrophic )?error\b[^:]*: (?P<message>.+)$", re.M)
_MESSAGE = re.compile(r"\b(?:error|fatal)\s*: (?P<message>.+)$", re.M)


def _compile_error(spec: Compilable, log: str) -> CompileError:
    log = log.replace("\0", "").strip()
    positioned = _POSITION.search(log)
    found = positioned or _MESSAGE.search(log)
    message = found["message"].strip() if found else (log.splitlines() or ["no message"])[0]
    at = positioned["line"] if positioned else ""
    return CompileError(
        field="kernel source",
        got=f"{at}: {message}" if at else message,
        expected=f"{spec.source} to compile for {spec.arch.target} ({spec.label})",
        remedy="read .log; an unedited kernel that fails is a bug of flashactor or of this NVRTC",
        log=log,
        source_line=at,
    )


@contextmanager
def _nvrtc_required() -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError) as error:  # cuda.pathfinder's DynamicLibNotFoundError is the latter
        raise DeviceUnavailableError(
            field="NVRTC",
            got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            expected="the NVRTC library and cuda-core, with which kernels are compiled",
            remedy="pip install nvidia-cuda-nvrtc cuda-core cuda-bindings",
        ) from error
