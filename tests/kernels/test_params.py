"""The parameter structs are the same in Python and in CUDA: every struct of every header, field by field."""

import importlib
import pkgutil
import re
import struct
from pathlib import Path

import pytest
from plan_tools import FORMATS

from flashactor import kernels
from flashactor.kernels.backward_spec import STAT_ROWS
from flashactor.kernels.params import FWD_PARAMS, PROBLEM, StructLayout
from flashactor.kernels.problem import UNLIMITED
from flashactor.kernels.sm90 import HOPPER_PARAMS, HopperSpec, _padding
from flashactor.kernels.spec import TENSOR_MAP_BYTES

HEADERS = Path(__file__).resolve().parents[2] / "kernels_cu"
NESTED = ("Problem", "FwdParams")
"""Structs inside of others."""


def structs():
    """(fields as (name, type)) of each struct of the headers, those of nested structs in their place."""
    found = {}
    for header in sorted(HEADERS.rglob("*params.cuh")):
        for name, body in re.findall(
            r"^struct (\w+) \{\n(.*?)\n\};", header.read_text(), re.DOTALL | re.MULTILINE
        ):
            found[name] = re.findall(r"^  ([^/\n]*?)(\w+)(?:\[\w+\])?;", body, re.MULTILINE)
    return {name: tuple(expanded(fields, found)) for name, fields in found.items()}


def expanded(fields, found):
    for declared, name in fields:
        kind = declared.strip()
        if kind in NESTED:
            yield from expanded(found[kind], found)
        elif name == "padding":
            yield from _padding()
        elif kind != "TensorMap":  # they are no fields of a layout: a launch puts them before
            yield name, "pointer" if kind.endswith("*") else kind


def layouts():
    """Every layout of flashactor.kernels by the name that its struct has."""
    found = {}
    for module in pkgutil.iter_modules(kernels.__path__, "flashactor.kernels."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, StructLayout):
                found["".join(word.capitalize() for word in name.split("_"))] = value
    return found


LAYOUTS = layouts()


def test_every_struct_has_a_mirror_and_every_mirror_a_struct():
    assert set(structs()) == {*LAYOUTS, "Problem"}
    assert {"FwdParams", "BwdParams", "CombineParams", "ReduceParams"} <= set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_fields_are_those_of_the_header(name):
    assert LAYOUTS[name].fields == structs()[name]


def test_tensor_maps_come_first_and_are_those_that_launches_put_there():
    header = (HEADERS / "sm90/params.cuh").read_text()
    body = re.search(r"struct HopperParams \{\n(.*?)\n\};", header, re.DOTALL)[1]
    declared = re.findall(r"^  (\w+) (\w+)", body, re.MULTILINE)
    maps = [("TensorMap", name) for name in HopperSpec.tensor_maps]
    assert declared[: len(maps) + 1] == [*maps, ("FwdParams", "fwd")]


def test_what_lies_behind_tensor_maps_ends_where_c_ends_it():
    """A struct of members that are aligned to 64 bytes has a multiple of 64 bytes."""
    assert TENSOR_MAP_BYTES % 64 == HOPPER_PARAMS.size % 64 == 0
    assert 0 <= len(_padding()) < 16


def test_the_problem_comes_first_where_a_kernel_solves_one():
    assert structs()["Problem"] == PROBLEM
    for name in ("FwdParams", "BwdParams", "HopperParams"):
        assert structs()[name][: len(PROBLEM)] == PROBLEM


@pytest.mark.parametrize("name", [*LAYOUTS, "Problem"])
def test_the_layout_has_no_padding_in_c(name):
    layout = StructLayout(PROBLEM) if name == "Problem" else LAYOUTS[name]
    offset = 0
    for field, kind in layout.fields:
        size = struct.calcsize(FORMATS[kind])
        assert offset % size == 0, f"C would pad before {field}"
        offset += size
    assert offset == layout.size
    assert offset % 8 == 0, "C would pad the end"
    assert offset <= 4096, "more than a kernel's parameters may be"


@pytest.mark.parametrize(
    ("header", "name", "mirror"),
    [("params.cuh", "kUnlimited", UNLIMITED), ("bwd_params.cuh", "kStatRows", STAT_ROWS)],
)
def test_constants_are_those_of_the_header(header, name, mirror):
    (value,) = re.findall(
        rf"^constexpr int {name} = (\w+);", (HEADERS / "common" / header).read_text(), re.MULTILINE
    )
    assert int(value, 0) == mirror


def test_pack_takes_exactly_the_fields():
    values = dict.fromkeys((name for name, _ in FWD_PARAMS.fields), 0)
    values |= {"cu_seqlens_q": 2**63, "alibi_stride_batch": -(2**40), "dropout_seed_low": 2**32 - 1}
    packed = FWD_PARAMS.pack(values)
    offsets, offset = {}, 0
    for name, kind in FWD_PARAMS.fields:
        offsets[name], offset = offset, offset + struct.calcsize(FORMATS[kind])
    assert struct.unpack_from("<Q", packed, 0) == (2**63,)
    assert struct.unpack_from("<q", packed, offsets["alibi_stride_batch"]) == (-(2**40),)
    assert struct.unpack_from("<I", packed, offsets["dropout_seed_low"]) == (2**32 - 1,)
    with pytest.raises(ValueError, match="lse"):
        FWD_PARAMS.pack({name: 0 for name in values if name != "lse"})
    with pytest.raises(ValueError, match="colour"):
        FWD_PARAMS.pack({**values, "colour": 1})
