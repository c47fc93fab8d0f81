"""NVRTC's figures, warnings and errors, with kernels that it really compiles."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import pytest
from small_kernel import KERNEL, SmallSpec, write_sources

from flashactor.compiler import nvrtc
from flashactor.compiler.nvrtc import (
    PtxasInfo,
    compile_cubin,
    compile_ptx,
    nvrtc_version,
    options,
    parse_log,
    program_options,
)
from flashactor.errors import CompileError, DeviceUnavailableError
from flashactor.types import SmArch

ROUTINE = """ptxas info    : 82 bytes gmem, 176 bytes cmem[4]
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
ptxas         .     64 bytes stack frame, 48 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 1024 bytes smem, 544 bytes cmem[0]
ptxas info    : Compile time = 230.072 ms
\0\0"""


def test_ptxas_figures_are_read_and_leave_no_remark():
    assert parse_log(ROUTINE) == (PtxasInfo(168, 1024, 64, 48, 40), "")


def test_of_several_functions_the_largest_figure_counts():
    smaller = ROUTINE.replace("168", "24").replace("64 bytes", "72 bytes")
    info, _ = parse_log(ROUTINE + smaller)
    assert (info.registers, info.stack_bytes) == (168, 72)


@pytest.mark.parametrize("code", ["C7508", "C7510", "C7514", "C7517"])
def test_a_remark_of_ptxas_is_kept_though_it_is_called_info(code):
    remark = (
        f"ptxas info    : ({code}) Potential Performance Loss: wgmma.mma_async instructions are serialized"
    )
    info, log = parse_log(ROUTINE.replace("ptxas         .", remark + "\nptxas         ."))
    assert log == remark
    assert info.spill_store_bytes == 48


def test_an_empty_log_has_no_figures():
    assert parse_log("") == (PtxasInfo(), "")


@pytest.mark.parametrize("arch", SmArch)
def test_the_option_strings_are_what_cuda_core_passes(arch):
    spec = SmallSpec(arch, defines=(("A", "1"), ("B", "x + 2"), ("EMPTY", "")))
    assert [o.decode() for o in program_options(spec).as_bytes("nvrtc")] == list(options(spec))


def test_every_architecture_compiles_in_threads(sources):
    with ThreadPoolExecutor(len(SmArch)) as pool:
        kernels = list(pool.map(lambda arch: compile_cubin(SmallSpec(arch), root=sources), SmArch))
    assert len({kernel.cubin for kernel in kernels}) == len(SmArch)
    for kernel in kernels:
        assert kernel.cubin.startswith(b"\x7fELF")
        assert 0 < kernel.registers <= 32
        assert kernel.shared_bytes == 128
        assert kernel.spill_store_bytes == kernel.spill_load_bytes == kernel.stack_bytes == 0
        assert kernel.log == ""
        assert kernel.compile_seconds > 0
        assert kernel.nvrtc_version == nvrtc_version()


def test_a_spill_is_reported(sources):
    crowded = """
extern "C" __global__ void __launch_bounds__(1024) small(float* x, int n) {
  float v[200];
  for (int i = 0; i < 200; ++i) v[i] = x[i * n + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 200; ++i) x[i * n + threadIdx.x] = v[199 - i] * v[i];
}
"""
    write_sources(sources, crowded.replace("for", "#pragma unroll\n  for"))
    kernel = compile_cubin(SmallSpec(), root=sources)
    assert kernel.registers <= 64
    assert min(kernel.spill_store_bytes, kernel.spill_load_bytes, kernel.stack_bytes) > 0


def test_a_warning_stays_in_the_log(sources):
    write_sources(sources, KERNEL.replace("__syncthreads();", "__syncthreads(); int never;"))
    log = compile_cubin(SmallSpec(), root=sources).log
    assert log.startswith('small/kernel.cu(5): warning #177-D: variable "never"')
    assert "ptxas" not in log


def test_a_broken_kernel_names_its_own_line(sources):
    write_sources(sources, KERNEL.replace("SCALE", "SCALES"))
    with pytest.raises(CompileError) as caught:
        compile_cubin(SmallSpec(), root=sources)
    error = caught.value
    assert error.source_line == "small/kernel.cu(4)"
    assert error.got == 'small/kernel.cu(4): identifier "SCALES" is undefined'
    assert error.log.startswith("small/kernel.cu(4): error")
    assert "sm_80" in error.expected


def test_an_error_in_a_header_names_the_header(sources):
    (sources / "common/twice.cuh").write_text("#pragma once\n\nfloat twice(float x) { return x +; }\n")
    for compile_ in (compile_cubin, compile_ptx):
        with pytest.raises(CompileError) as caught:
            compile_(SmallSpec(), root=sources)
        assert caught.value.source_line == "common/twice.cuh(3)"


def test_an_error_of_ptxas_is_a_compile_error(sources):
    write_sources(sources, KERNEL.replace("__syncthreads();", 'asm volatile("nosuchinstruction;");'))
    with pytest.raises(CompileError, match="nosuchinstruction") as caught:
        compile_cubin(SmallSpec(), root=sources)
    assert "ptxas" in caught.value.log


def test_ptx_is_text_for_the_virtual_architecture(sources):
    ptx = compile_ptx(SmallSpec(SmArch.SM90A), root=sources)
    assert re.search(r"^\.target sm_90a$", ptx, re.M)
    assert ".entry small(" in ptx
    assert not ptx.endswith("\0")


def test_a_cubin_depends_on_no_folder(sources, tmp_path, monkeypatch):
    spec = SmallSpec(SmArch.SM90A)
    cubins = {compile_cubin(spec, root=sources).cubin}
    monkeypatch.chdir(tmp_path)
    cubins.add(compile_cubin(spec, root=write_sources(tmp_path / "elsewhere")).cubin)
    assert len(cubins) == 1
    assert str(tmp_path).encode() not in cubins.pop()


def test_the_version_names_library_and_wheel():
    assert re.fullmatch(r"\d+\.\d+( \(wheel [\d.]+\))?", nvrtc_version())


@pytest.fixture
def fresh_version():
    """``nvrtc_version`` remembers nothing before and after the test."""
    nvrtc_version.cache_clear()
    yield
    nvrtc_version.cache_clear()


@pytest.mark.usefixtures("fresh_version")
@pytest.mark.parametrize("call", [compile_cubin, compile_ptx])
def test_a_missing_library_has_a_remedy(call, sources, monkeypatch):
    from cuda.bindings import nvrtc as bindings
    from cuda.pathfinder import DynamicLibNotFoundError

    def missing():
        raise DynamicLibNotFoundError('Failure finding "libnvrtc.so": No such file\nsearched: everywhere')

    monkeypatch.setattr(bindings, "nvrtcVersion", missing)
    with pytest.raises(DeviceUnavailableError, match="pip install nvidia-cuda-nvrtc") as caught:
        call(SmallSpec(), root=sources)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fresh_version")
def test_missing_bindings_have_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DeviceUnavailableError, match="pip install nvidia-cuda-nvrtc"):
        nvrtc_version()


def test_an_error_that_is_not_nvrtcs_stays_what_it_is(sources, monkeypatch):
    monkeypatch.setattr(nvrtc, "program_options", lambda spec: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compile_cubin(SmallSpec(), root=sources)


def test_importing_the_compiler_loads_neither_cuda_nor_numpy():
    statement = (
        "import sys, flashactor.compiler.nvrtc, flashactor.cache.cubin_cache\n"
        "assert not {'cuda', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", statement], check=True)


def test_the_version_names_what_changes_the_code(monkeypatch):
    plain = nvrtc.nvrtc_version()
    assert plain.startswith("13.")
    assert "wheel" in plain
    nvrtc.nvrtc_version.cache_clear()
    monkeypatch.setenv("NV_NVVM_VERSION", "nvvm-latest")
    try:
        assert nvrtc.nvrtc_version() == plain[:-1] + ", NV_NVVM_VERSION=nvvm-latest)"
    finally:
        nvrtc.nvrtc_version.cache_clear()


def test_the_patch_level_is_that_of_the_library_which_is_loaded():
    wheel = distribution("nvidia-cuda-nvrtc")
    library = Path(wheel.locate_file("nvidia/cu13/lib/libnvrtc.so.13"))
    assert nvrtc._patch_level(library.resolve()) == f"wheel {wheel.version}"
    assert nvrtc._patch_level(Path("/usr/local/cuda/lib64/libnvrtc.so.13.4.92")) == "libnvrtc.so.13.4.92"


FORK_WHILE_LOADING = """
import os, threading
from flashactor.compiler import nvrtc
assert nvrtc._loading.acquire()  # as a thread that is importing the CUDA packages
child = os.fork()
if child == 0:
    nvrtc.load_cuda_packages()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_child_that_is_forked_while_the_packages_load_loads_them_itself():
    subprocess.run([sys.executable, "-c", FORK_WHILE_LOADING], timeout=60, check=True)
