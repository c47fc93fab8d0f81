"""The fields of a C struct in a header of kernels_cu, for comparison with its mirror in Python."""

import re
from pathlib import Path

COMMON = Path(__file__).resolve().parents[2] / "kernels_cu" / "common"


def header_fields(header, struct):
    """((name, type), ...) as a StructLayout has them."""
    body = re.search(rf"struct {struct} \{{(.*?)\n\}};", (COMMON / header).read_text(), re.DOTALL)[1]
    fields = []
    for declaration in re.findall(r"^  ([^/\n]+);", body, re.MULTILINE):
        kind, _, name = declaration.rpartition(" ")
        fields.append((name, "pointer" if kind.endswith("*") else kind))
    return tuple(fields)


def unpadded(layout):
    """Whether C lays the struct out without padding."""
    offset = 0
    for _, kind in layout.fields:
        size = {"pointer": 8, "i64": 8}.get(kind, 4)
        if offset % size:
            return False
        offset += size
    return offset % 8 == 0
