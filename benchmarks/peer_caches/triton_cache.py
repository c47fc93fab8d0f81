"""How long Triton takes to fill its kernel cache with forward attention kernels, and to use it again.

    pip install triton  # in an environment of its own; needs no GPU
    python -m benchmarks.peer_caches.triton_cache --kernels 32 --jobs 2 --cache DIR  # cold; again: warm

Prints one JSON document. first_kernel_seconds start where the process starts, so the imports are in them. A
kernel is there when Triton hands over its cubin; loading it onto a GPU is not measured. What all of it takes
is for the caller to measure: benchmarks.cubin_cache does.
"""

import importlib
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peer_caches.measuring import get_all, now, run_peer

tl: Any = None  # triton.language, once a process needs it
_jitted: Any = None  # attention_forward as Triton's JITFunction, likewise

HEAD_DIMS = (128, 64, 32, 16, 256)
DTYPES = ("bf16", "fp16")
CAPABILITIES = (80, 90)
# (queries, keys, warps) of a block; those after the first serve only for more than one tile's 40 kernels.
TILES = ((128, 64, 8), (64, 64, 4), (128, 32, 4))
STAGES = 2
ALIGNED = [["tt.divisibility", 16]]


class Kernel(NamedTuple):
    """One specialisation of the attention kernel.

    Attributes:
        capability: compute capability of the GPU, 80 or 90.
        dtype: Triton's name of the element type of Q, K, V and O.
        head_dim: elements of a head, a power of two.
        causal: whether a query sees only the keys up to its own place.
        block_q: queries of a block.
        block_k: keys of one step.
        warps: warps of a block.
    """

    capability: int
    dtype: str
    head_dim: int
    causal: bool
    block_q: int
    block_k: int
    warps: int


def all_kernels() -> Iterator[Kernel]:
    """Every specialisation; the first serves what ours does: causal, bf16, head_dim 128, sm_80."""
    for (block_q, block_k, warps), head_dim, dtype, causal, capability in product(
        TILES, HEAD_DIMS, DTYPES, (True, False), CAPABILITIES
    ):
        yield Kernel(capability, dtype, head_dim, causal, block_q, block_k, warps)


def attention_forward(
    queries: "Any",
    keys: "Any",
    values: "Any",
    output: "Any",
    log_sums: "Any",
    query_batch: "Any",
    query_head: "Any",
    query_row: "Any",
    key_batch: "Any",
    key_head: "Any",
    key_row: "Any",
    heads: "Any",
    heads_per_key_head: "Any",
    query_count: "Any",
    key_count: "Any",
    scale: "Any",
    head_dim: "Any",
    causal: "Any",
    block_q: "Any",
    block_k: "Any",
) -> None:
    """Forward attention of one block of queries, in the language of Triton: never called as Python.

    Strides are in elements; O has those of Q and V those of K. ``scale`` holds log2(e) already, and
    ``log_sums`` receives the logarithm to base two of each row's sum, for a backward pass.
    """
    first = tl.program_id(0) * block_q
    batch = tl.program_id(1) // heads
    head = tl.program_id(1) % heads
    rows = first + tl.arange(0, block_q)
    columns = tl.arange(0, head_dim)
    steps = tl.arange(0, block_k)
    row_there = rows[:, None] < query_count

    query_place = batch * query_batch + head * query_head + rows[:, None] * query_row + columns[None, :]
    key_place = batch * key_batch + (head // heads_per_key_head) * key_head + columns
    q = tl.load(queries + query_place, mask=row_there, other=0.0)

    shift = key_count - query_count
    end = key_count
    if causal:
        end = tl.minimum(key_count, first + block_q + shift)

    highest = tl.full([block_q], float("-inf"), tl.float32)
    total = tl.zeros([block_q], tl.float32)
    gathered = tl.zeros([block_q, head_dim], tl.float32)
    for start in range(0, end, block_k):
        key = start + steps
        key_there = key[:, None] < key_count
        place = key_place[None, :] + key[:, None] * key_row
        k = tl.load(keys + place, mask=key_there, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        seen = key[None, :] < key_count
        if causal:
            seen = seen & (key[None, :] <= rows[:, None] + shift)
        scores = tl.where(seen, scores, float("-inf"))

        raised = tl.maximum(highest, tl.max(scores, 1))
        anchor = tl.where(raised == float("-inf"), 0.0, raised)
        weights = tl.exp2(scores - anchor[:, None])
        decay = tl.exp2(highest - anchor)
        total = total * decay + tl.sum(weights, 1)
        v = tl.load(values + place, mask=key_there, other=0.0)
        gathered = gathered * decay[:, None] + tl.dot(weights.to(v.dtype), v)
        highest = raised

    divisor = tl.where(total == 0.0, 1.0, total)
    result = (gathered / divisor[:, None]).to(output.dtype.element_ty)
    tl.store(output + query_place, result, mask=row_there)
    tl.store(
        log_sums + tl.program_id(1) * query_count + rows, highest + tl.log2(total), mask=rows < query_count
    )


def get(kernel: Kernel) -> tuple[float, bool]:
    """Have Triton make the kernel or find it in its cache: when it was there, and whether it was found."""
    global tl, _jitted
    if _jitted is None:
        tl = importlib.import_module("triton.language")
        _jitted = importlib.import_module("triton").jit(attention_forward)
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", kernel.capability, 32)
    settings = importlib.import_module("triton").knobs.compilation
    found: list[bool] = []
    settings.listener = lambda **report: found.append(report["cache_hit"])

    tensor = f"*{kernel.dtype}"
    strides = ("query_batch", "query_head", "query_row", "key_batch", "key_head", "key_row")
    counts = ("heads", "heads_per_key_head", "query_count", "key_count")
    constants = {name: getattr(kernel, name) for name in ("head_dim", "causal", "block_q", "block_k")}
    signature = {
        **dict.fromkeys(("queries", "keys", "values", "output"), tensor),
        "log_sums": "*fp32",
        **dict.fromkeys(strides + counts, "i32"),
        "scale": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    # What a call with whole tensors would tell Triton: pointers and strides are multiples of sixteen.
    aligned = {(place,): ALIGNED for place in range(5 + len(strides))}
    source = compiler.ASTSource(_jitted, signature, constants, aligned)
    made = compiler.compile(source, target=target, options={"num_warps": kernel.warps, "num_stages": STAGES})
    if not made.asm["cubin"]:
        raise RuntimeError(f"no cubin for {kernel}")
    return now(), found == [True]


def fill(kernels: list[Kernel], jobs: int, cache: Path) -> tuple[bool, float]:
    """Get all kernels: whether the cache had them, and when the first was there."""
    os.environ["TRITON_CACHE_DIR"] = str(cache)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # its default, which it warns of when unsaid
    warm = cache.is_dir() and any(cache.iterdir())
    taken = get_all(get, kernels, jobs)
    if any(found != warm for _, found in taken):
        raise SystemExit(f"{cache} holds some of the kernels and not others: give an empty folder")
    return warm, min(there for there, _ in taken)


if __name__ == "__main__":
    run_peer("triton", __doc__, all_kernels, fill)
