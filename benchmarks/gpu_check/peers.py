"""FlashAttention's own packages beside ours, on the same tensors, as far as they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

Run = Callable[[], object]
SetUp = Callable[[], Run]
"""Makes what is run again and again, outside of the measured time."""

PACKAGES = {
    "FlashAttention-2": "flash_attn",
    "FlashAttention-3": "flash_attn_interface",
    "FlashAttention-4": "flash_attn.cute",
}
"""The modules that they are imported as."""

TAKES_FP8 = ("FlashAttention-3",)
PAGE_TABLES = {"FlashAttention-2": "block_table", "FlashAttention-3": "page_table"}
"""Those that read a cache, and what they call its table."""


def attention(causal: bool, operands: tuple[Any, Any, Any]) -> dict[str, SetUp]:
    """The forward pass of each package that takes the type of q, k and v, ``[batch, seqlen, heads, dim]``."""
    fp8 = "float8" in str(operands[0].dtype)
    found = _installed(name for name in PACKAGES if name in TAKES_FP8 or not fp8)
    return {name: _ready(partial(it.flash_attn_func, *operands, causal=causal)) for name, it in found}


def decode(q: Any, k: Any, v: Any, lengths: Any, table: Any | None) -> dict[str, SetUp]:
    """A step over a cache of every package that reads one.

    Args:
        q: ``[batch, 1, heads, head_dim]``.
        k, v: pages, or ``[batch, seqlen, heads, head_dim]``.
        lengths: ``[batch]``, keys of each sequence.
        table: ``[batch, pages]``; None where keys do not lie in pages.
    """
    made = {}
    for name, it in _installed(PAGE_TABLES):
        pages = {} if table is None else {PAGE_TABLES[name]: table}
        made[name] = _ready(partial(it.flash_attn_with_kvcache, q, k, v, cache_seqlens=lengths, **pages))
    return made


def _ready(run: Run) -> SetUp:
    return lambda: run


def _installed(names: Iterable[str]) -> list[tuple[str, Any]]:
    """(name, module) of each package that can be imported."""
    found = []
    for name in names:
        try:
            found.append((name, importlib.import_module(PACKAGES[name])))
        except Exception:  # one that was built for another PyTorch may raise anything
            continue
    return found
