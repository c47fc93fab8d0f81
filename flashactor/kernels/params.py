"""The parameter struct of a forward kernel: the mirror of kernels_cu/common/params.cuh.

One declaration gives the order, the types and the size; the kernel asserts the size, and a test compares the
fields with the header's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FORMATS = {"pointer": "Q", "i64": "q", "int": "i", "float": "f"}


@dataclass(frozen=True, slots=True)
class StructLayout:
    """A C struct as (name, type) pairs, packed little-endian without implicit padding."""

    fields: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Bytes of the struct."""
        return struct.calcsize(self._format)

    @property
    def _format(self) -> str:
        return "<" + "".join(_FORMATS[kind] for _, kind in self.fields)

    def pack(self, values: dict[str, int | float]) -> bytes:
        """The struct's bytes; ``values`` has exactly its fields."""
        names = [name for name, _ in self.fields]
        if values.keys() != set(names):
            raise ValueError(f"fields {sorted(values.keys() ^ set(names))} are missing or unknown")
        return struct.pack(self._format, *(values[name] for name in names))


FWD_PARAMS = StructLayout(
    (
        *((name, "pointer") for name in ("q", "k", "v", "out", "lse")),
        *(
            (f"{name}_stride_{axis}", "i64")
            for name in ("q", "k", "v", "out")
            for axis in ("batch", "row", "head")
        ),
        *((f"lse_stride_{axis}", "i64") for axis in ("batch", "head", "row")),
        *((name, "int") for name in ("seqlen_q", "seqlen_k", "heads_q", "gqa_ratio", "head_dim", "q_tiles")),
        ("scale_log2", "float"),
        ("reserved", "int"),
    )
)
