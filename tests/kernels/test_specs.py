"""Every kernel that the tile table can choose: compiled, and judged by what ptxas and the SASS say."""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from flashactor import DType, SmArch
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.kernels.sm80 import SHARED_BYTES_PER_BLOCK, TILES, all_specs, forward_spec

MAX_REGISTERS = 255
REGISTERS_PER_SM = 65536


@pytest.fixture(scope="module")
def compiled():
    """Every specialisation, by spec."""
    specs = all_specs()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(specs, pool.map(compile_cubin, specs), strict=True))


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("head_dim", range(8, 257, 8))
def test_every_head_dim_has_a_tile(arch, head_dim):
    spec = forward_spec(arch, DType.BF16, head_dim, causal=True)
    assert spec.head_dim - 32 < head_dim <= spec.head_dim
    assert spec.shared_bytes <= SHARED_BYTES_PER_BLOCK[arch]


def test_the_table_has_one_row_for_each_cell():
    cells = [(row.head_dim, arch) for row in TILES for arch in row.archs]
    assert len(cells) == len(set(cells)) == 8 * len(SmArch)
    assert all(row.reason for row in TILES)


def test_specs_and_labels_are_unique():
    specs = all_specs()
    assert len(specs) == len(set(specs)) == len({spec.label for spec in specs}) == 192
    assert len(all_specs(SmArch.SM90A)) == 32


def test_no_kernel_spills_or_uses_local_memory(compiled):
    spilling = {
        spec.label: (kernel.spill_store_bytes, kernel.spill_load_bytes, kernel.stack_bytes)
        for spec, kernel in compiled.items()
        if kernel.spill_store_bytes or kernel.spill_load_bytes or kernel.stack_bytes
    }
    assert spilling == {}


def test_every_block_fits_the_register_file(compiled):
    for spec, kernel in compiled.items():
        assert 0 < kernel.registers <= MAX_REGISTERS
        rounded = -(-kernel.registers // 8) * 8
        assert rounded * spec.threads <= REGISTERS_PER_SM, spec.label


def test_two_blocks_share_an_sm_where_the_table_counts_on_it(compiled):
    for spec, kernel in compiled.items():
        if spec.head_dim == 128 and spec.arch is SmArch.SM80:
            assert 2 * -(-kernel.registers // 8) * 8 * spec.threads <= REGISTERS_PER_SM
            assert 2 * spec.shared_bytes <= SHARED_BYTES_PER_BLOCK[SmArch.SM80]


def test_the_compiler_has_nothing_to_say(compiled):
    assert {spec.label: kernel.log for spec, kernel in compiled.items() if kernel.log} == {}


def test_static_shared_memory_is_none(compiled):
    assert {kernel.shared_bytes for kernel in compiled.values()} == {0}


def nvdisasm(cubin, folder):
    root = Path(find_spec("nvidia").submodule_search_locations[0])
    tool = next(root.rglob("nvdisasm"))
    tool.chmod(0o755)
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    return subprocess.run([tool, path], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_sass_uses_tensor_cores_and_asynchronous_copies(compiled, arch, head_dim, tmp_path):
    spec = forward_spec(arch, DType.BF16, head_dim, causal=True)
    sass = nvdisasm(compiled[spec].cubin, tmp_path)
    assert f".text.{spec.entry}" in sass
    opcodes = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?(\w+)", sass, re.MULTILINE)
    products = 2 * (spec.head_dim // 16) * (spec.tile_n // 8) * (spec.tile_m // spec.warps // 16)
    # Q K^T is rolled over head_dim two steps at a time, P V is not rolled.
    rolled = products // 2 // (spec.head_dim // 16) * 2
    assert opcodes.count("HMMA") == products // 2 + rolled
    assert {"LDGSTS", "LDSM", "MUFU", "SHFL"} <= set(opcodes)
    assert not {"LDL", "STL"} & set(opcodes)
