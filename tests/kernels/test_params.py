"""The parameter struct is the same in Python and in CUDA."""

import re
import struct
from pathlib import Path

import pytest

from flashactor.kernels.params import FWD_PARAMS

HEADER = Path(__file__).resolve().parents[2] / "kernels_cu" / "common" / "params.cuh"


def header_fields():
    body = re.search(r"struct FwdParams \{(.*?)\n\};", HEADER.read_text(), re.DOTALL)[1]
    for declaration in re.findall(r"^  ([^/\n]+);", body, re.MULTILINE):
        kind, _, name = declaration.rpartition(" ")
        yield name, "pointer" if kind.endswith("*") else kind


def test_fields_are_those_of_the_header():
    assert tuple(header_fields()) == FWD_PARAMS.fields


def test_the_layout_has_no_padding_in_c():
    offset = 0
    for name, kind in FWD_PARAMS.fields:
        size = {"pointer": 8, "i64": 8, "int": 4, "float": 4}[kind]
        assert offset % size == 0, f"C would pad before {name}"
        offset += size
    assert offset == FWD_PARAMS.size == 192
    assert offset % 8 == 0, "C would pad the end"


def test_pack_takes_exactly_the_fields():
    values = dict.fromkeys((name for name, _ in FWD_PARAMS.fields), 0)
    values |= {"q": 2**63, "q_stride_row": -(2**40), "scale_log2": 0.5}
    packed = FWD_PARAMS.pack(values)
    assert struct.unpack_from("<Q", packed, 0) == (2**63,)
    assert struct.unpack_from("<q", packed, 48) == (-(2**40),)
    assert struct.unpack_from("<f", packed, 184) == (0.5,)
    with pytest.raises(ValueError, match="lse"):
        FWD_PARAMS.pack({name: 0 for name in values if name != "lse"})
    with pytest.raises(ValueError, match="colour"):
        FWD_PARAMS.pack({**values, "colour": 1})
