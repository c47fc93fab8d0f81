"""Writes kernels_cu/sm90/wgmma.cuh: one function for each shape of wgmma that the tile tables use.

    python tools/generate_wgmma.py           # writes the file
    python tools/generate_wgmma.py --check   # says whether it is what it would write

A wgmma names every register of its accumulator, so by hand these functions would be thousands of operands.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flashactor.kernels.sm90 import TILE_TABLES
from flashactor.kernels.sm90_fp8 import FP8_TILE_TABLES

TARGET = Path(__file__).parent.parent / "kernels_cu/sm90/wgmma.cuh"

HEADER = """\
// wgmma of 64 rows: one instruction per function, for the shapes that the tile tables use. Written by
// tools/generate_wgmma.py.
//
// D[64][N] += A B, or = A B where `accumulates` is false. D lies in registers as of m64nN: columns 8n to
// 8n + 7 in d[n], of which a lane holds two of row lane / 4 and two of row lane / 4 + 8. B lies in shared
// memory, and so does A, or in registers (PTX ISA, "Asynchronous warpgroup-level matrix instructions").
#pragma once

#include "common/types.cuh"

namespace flashactor {

// Element types of A and B. The depth of a product is 32 bytes of them.
enum class Product { kF16, kBf16, kE4m3, kE4m3E5m2 };
"""

FOOTER = """
}  // namespace flashactor
"""

PRODUCTS = {
    "kF16": "k16.f32.f16.f16",
    "kBf16": "k16.f32.bf16.bf16",
    "kE4m3": "k32.f32.e4m3.e4m3",
    "kE4m3E5m2": "k32.f32.e4m3.e5m2",
}
LINE = 90


def shapes() -> tuple[list[int], list[int]]:
    """N of the products whose A lies in shared memory (Q Kᵀ), and of those with A in registers (P V)."""
    rows = [row for table in TILE_TABLES.values() for row in table]
    fp8_rows = [row for table in FP8_TILE_TABLES.values() for row in table]
    dims = {row.head_dims[1] for row in rows} | {row.piece_dims for row in fp8_rows}
    return sorted({row.tile.n for row in (*rows, *fp8_rows)}), sorted(dims)


def text() -> str:
    """The file's text."""
    keys, dims = shapes()
    functions = [_function(n, in_registers=False) for n in keys] + [
        _function(n, in_registers=True) for n in dims
    ]
    return HEADER + "".join(functions) + FOOTER


def _function(n: int, *, in_registers: bool) -> str:
    tiles, results = n // 8, n // 2
    name, a = ("registers", "const u32 (&a)[4]") if in_registers else ("shared", "u64 a")
    b = results + (4 if in_registers else 1)
    numbers = [f"%{index}" for index in range(b + 1)]
    a_names = "{" + ", ".join(numbers[results:b]) + "}" if in_registers else numbers[results]
    outputs = [f'"+f"(d[{tile}][{item}])' for tile in range(tiles) for item in range(4)]
    inputs = [f'"r"(a[{item}])' for item in range(4)] if in_registers else ['"l"(a)']
    inputs += ['"l"(b)', '"r"(static_cast<int>(accumulates))']
    statement = [
        f'"{{\\n\\t.reg .pred p;\\n\\tsetp.ne.b32 p, %{b + 1}, 0;\\n\\t"',
        f'"wgmma.mma_async.sync.aligned.m64n{n}" TYPES " {{"',
        *(f'"{line}"' for line in _wrapped(numbers[:results])),
        f'"}}, {a_names}, {numbers[b]}, p, 1, 1" TRANSPOSED ";\\n\\t}}"',
        *_after_colon(outputs),
        *_after_colon(inputs),
    ]
    lines = [
        "",
        "template <Product Types>",
        f"__device__ __forceinline__ void wgmma_{name}(float (&d)[{tiles}][4], {a}, u64 b,",
        " " * len(f"__device__ __forceinline__ void wgmma_{name}(") + "bool accumulates) {",
        "#define FLASHACTOR_WGMMA(TYPES, TRANSPOSED) \\",
        "  asm volatile( \\",
        *(f"      {line} \\" for line in statement[:-1]),
        f"      {statement[-1]})",
    ]
    of_16_bits = ", 1" if in_registers else ", 0, 0"
    for index, (product, types) in enumerate(PRODUCTS.items()):
        word = "} else if" if index else "if"
        lines.append(f"  {word} constexpr (Types == Product::{product}) {{")
        # 8-bit operands have no other layout than that with contiguous depth.
        transposed = of_16_bits if "k16" in types else ""
        lines.append(f'    FLASHACTOR_WGMMA("{types}", "{transposed}");')
    lines += ["  }", "#undef FLASHACTOR_WGMMA", "}"]
    return "\n".join(lines) + "\n"


def _after_colon(items: list[str]) -> list[str]:
    first, *rest = _wrapped(items)
    return [f": {first}", *(f"  {line}" for line in rest)]


def _wrapped(items: list[str]) -> list[str]:
    """Items with commas, in lines."""
    lines = [""]
    for index, item in enumerate(items):
        word = item + (", " if index + 1 < len(items) else "")
        if len(lines[-1]) + len(word) > LINE:
            lines.append("")
        lines[-1] += word
    return lines


def main(arguments: list[str]) -> int:
    """Write the file, or compare it."""
    if arguments == ["--check"]:
        current = TARGET.exists() and TARGET.read_text() == text()
        print(f"{TARGET.name} is {'current' if current else 'out of date: python tools/generate_wgmma.py'}")
        return 0 if current else 1
    TARGET.write_text(text())
    print(f"wrote {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
