"""The parameter structs of kernels: the mirror of kernels_cu/common/*params.cuh.

One declaration gives the order, the types and the size; the kernels assert the size, and a test compares the
fields with the headers'.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

_FORMATS = {"pointer": "Q", "i64": "q", "int": "i", "u32": "I", "float": "f"}

Value = int | float
Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class StructLayout:
    """A C struct as (name, type) pairs, packed little-endian without implicit padding."""

    fields: tuple[Field, ...]
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _struct: struct.Struct = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once for a layout: requests are packed on the hot path.
        object.__setattr__(self, "_names", tuple(name for name, _ in self.fields))
        formats = "".join(_FORMATS[kind] for _, kind in self.fields)
        object.__setattr__(self, "_struct", struct.Struct(f"<{formats}"))

    @property
    def size(self) -> int:
        """Bytes of the struct."""
        return self._struct.size

    def pack(self, values: dict[str, Value]) -> bytes:
        """The struct's bytes; ``values`` has exactly its fields."""
        if values.keys() != set(self._names):
            raise ValueError(f"fields {sorted(values.keys() ^ set(self._names))} are missing or unknown")
        return self._struct.pack(*map(values.__getitem__, self._names))


def of_type(kind: str, names: str) -> tuple[Field, ...]:
    """Fields of one type, from their names."""
    return tuple((name, kind) for name in names.split())


def strides(names: Iterable[str], axes: str = "batch row head") -> tuple[Field, ...]:
    """The stride fields of arrays: ``q_stride_batch``, ..."""
    return tuple((f"{name}_stride_{axis}", "i64") for name in names for axis in axes.split())


PROBLEM = (
    *of_type("pointer", "cu_seqlens_q cu_seqlens_k seqused_q seqused_k alibi_slopes sink_logits"),
    *of_type("i64", "alibi_stride_batch"),
    *of_type("int", "batch appended seqlen_q seqlen_k heads_q gqa_ratio head_dim head_dim_v"),
    *of_type("int", "window_left window_right sink_tokens"),
    *of_type("float", "scale_log2 softcap_log2 softcap_inverse"),
    *of_type("u32", "dropout_threshold"),
    *of_type("float", "dropout_scale"),
    *of_type("u32", "dropout_seed_low dropout_seed_high dropout_offset"),
    *of_type("int", "reserved"),
)
"""``Problem`` of common/params.cuh, the first member of the forward and the backward struct."""

FWD_PARAMS = StructLayout(
    (
        *PROBLEM,
        *of_type("pointer", "q k v out lse partial_out partial_lse page_table q_scale k_scale v_scale"),
        *strides(("q", "k", "v", "out")),
        *strides(("lse",), "batch head row"),
        *of_type("i64", "page_table_stride partial_rows partial_stride_batch partial_stride_head"),
        *of_type("int", "q_tiles pack"),
        *of_type("u32", "pack_multiplier"),
        *of_type("int", "pack_shift num_splits blocks_per_split page_shift num_pages table_pages"),
        *of_type("int", "q_scale_stride k_scale_stride v_scale_stride kv_e5m2"),
        *of_type("float", "q_descale k_descale v_descale"),
        *of_type("int", "reserved_fwd out_bf16"),
    )
)
"""``FwdParams`` of common/fwd_params.cuh."""

COMBINE_PARAMS = StructLayout(
    (
        *of_type("pointer", "partial_out partial_lse out lse sink_logits cu_seqlens_q"),
        *of_type("i64", "rows"),
        *strides(("out",)),
        *strides(("lse",), "batch head row"),
        *of_type("int", "num_splits batch seqlen heads head_dim"),
        *of_type("int", "reserved"),
    )
)
"""``CombineParams`` of common/combine_params.cuh."""
