"""Cubins read back: opcodes, header, and every way in which reading them fails."""

import os
import shutil
import stat

import pytest
from small_kernel import KERNEL

from flashactor.check import tools
from flashactor.check.sass import ResourceUsage, disassemble, resource_usage
from flashactor.check.tools import INSTALL, find_tool, read_cubin
from flashactor.errors import CompileError, DeviceUnavailableError
from flashactor.types import SmArch


@pytest.fixture
def fresh():
    """find_tool, without what it remembers before and after."""
    find_tool.cache_clear()
    yield find_tool
    find_tool.cache_clear()


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("arch", SmArch)
def test_a_small_kernel_of_every_architecture(small_cubin, arch):
    cubin = small_cubin(KERNEL, arch)
    (code,) = disassemble(cubin)
    assert code.name == "small"
    assert {"LDG.E", "STS", "LDS", "STG.E", "EXIT"} <= set(code.opcodes)
    assert any(opcode.startswith("BAR.SYNC") for opcode in code.opcodes)
    assert code.opcodes.index("LDG.E") < code.opcodes.index("STS") < code.opcodes.index("EXIT")
    reserved = 0 if arch in (SmArch.SM80, SmArch.SM86, SmArch.SM89) else 1024
    (usage,) = resource_usage(cubin)
    assert usage == ResourceUsage("small", usage.registers, 0, 128 + reserved, 0)
    assert 0 < usage.registers <= 32


def test_every_function_is_read(small_cubin):
    second = KERNEL + 'extern "C" __global__ void second(int* x) { *x = 1; }\n'
    cubin = small_cubin(second)
    assert {code.name for code in disassemble(cubin)} == {"small", "second"}
    assert {usage.name for usage in resource_usage(cubin)} == {"small", "second"}


def test_setmaxnreg_keeps_its_registers(small_cubin):
    source = """extern "C" __global__ void __launch_bounds__(384, 1) small(float* x) {
  if (threadIdx.x < 128) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
  else asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  x[threadIdx.x] = 1;
}"""
    (code,) = disassemble(small_cubin(source, SmArch.SM90A))
    found = {opcode for opcode in code.opcodes if opcode.startswith("USETMAXREG")}
    assert found == {"USETMAXREG.DEALLOC.CTAPOOL(24)", "USETMAXREG.TRY_ALLOC.CTAPOOL(240)"}


def test_a_predicate_is_no_opcode(small_cubin):
    branch = 'extern "C" __global__ void small(float* x) { if (x[0] > 0) x[1] = 2; }'
    (code,) = disassemble(small_cubin(branch))
    assert all(opcode[0].isupper() and not opcode.startswith("P0") for opcode in code.opcodes)
    assert code.opcodes.count("EXIT") == 2


@pytest.mark.parametrize("read", [disassemble, resource_usage])
@pytest.mark.parametrize("damage", [lambda cubin: b"", lambda cubin: b"junk", lambda cubin: cubin[:100]])
def test_a_damaged_cubin_is_a_compile_error(small_cubin, read, damage):
    with pytest.raises(CompileError) as caught:
        read(damage(small_cubin(KERNEL)))
    assert caught.value.field == "cubin"
    assert caught.value.log.startswith(("nvdisasm fatal", "cuobjdump "))


@pytest.mark.parametrize("read", [disassemble, resource_usage])
def test_a_tool_that_prints_something_else_is_a_compile_error(read, monkeypatch, tmp_path):
    quiet = script(tmp_path / "tool", "echo a new format\n")
    monkeypatch.setattr(tools, "find_tool", lambda name: quiet)
    with pytest.raises(CompileError, match="report this"):
        read(b"")


def test_a_hung_tool_is_ended(monkeypatch, tmp_path):
    hung = script(tmp_path / "tool", "exec sleep 30\n")
    monkeypatch.setattr(tools, "find_tool", lambda name: hung)
    with pytest.raises(CompileError, match=r"no answer in 0\.1 s from nvdisasm"):
        read_cubin("nvdisasm", (), b"", timeout=0.1)


def test_a_tool_that_does_not_run_is_typed(monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "find_tool", lambda name: tmp_path)
    with pytest.raises(DeviceUnavailableError, match="does not run: Permission denied") as caught:
        disassemble(b"")
    assert caught.value.remedy == "pip install --force-reinstall nvidia-cuda-nvdisasm"


def test_the_tool_reads_the_cubin_and_nothing_stays_open(monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "find_tool", lambda name: shutil.which("cat"))
    before = os.listdir("/proc/self/fd")
    assert read_cubin("nvdisasm", (), b"bytes of a cubin") == "bytes of a cubin"
    assert os.listdir("/proc/self/fd") == before


def test_the_wheels_come_first_and_path_second(fresh, monkeypatch, tmp_path):
    assert "site-packages" in str(fresh("nvdisasm"))
    fresh.cache_clear()
    mine = script(tmp_path / "nvdisasm", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "PACKAGES", {"nvdisasm": "not-installed"})
    assert fresh("nvdisasm") == mine


def test_a_missing_tool_says_what_to_install(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "PACKAGES", {"nvdisasm": "not-installed"})
    with pytest.raises(DeviceUnavailableError) as caught:
        fresh("nvdisasm")
    error = caught.value
    assert (error.field, error.remedy) == ("nvdisasm", INSTALL)
    assert "not-installed" in error.got
    assert "CUDA toolkit" in error.expected
