"""The parser: statements, scopes, labels, constants, line numbers."""

import numpy as np
import pytest
from ptx_text import compute, fault, kernel, run

from flashactor import emulator
from flashactor.emulator.ptx.module import Address, Immediate, Pair, Register, SourceLine, Symbol, Vector
from flashactor.emulator.ptx.parse import parse
from flashactor.errors import MemoryAccessError, PtxSyntaxError, UnsupportedPtxError


def instructions(body, **rest):
    return parse(kernel(body, **rest)).entries["k"].instructions[4:-1]


def test_an_instruction():
    (found,) = instructions("@!%p1 ld.global.v2.u32 {%r1, %r2}, [%rd1+-16];")
    assert (found.opcode, found.modifiers) == ("ld", ("global", "v2", "u32"))
    assert found.guard.name == "%p1"
    assert found.guard_inverted
    to, source = found.operands
    assert isinstance(to, Vector)
    assert [item.name for item in to.items] == ["%r1", "%r2"]
    assert isinstance(source, Address)
    assert (source.base.name, source.offset) == ("%rd1", -16)
    assert found.text == "@!%p1 ld.global.v2.u32 {%r1, %r2}, [%rd1+-16]"


def test_statements_may_span_lines_and_share_them():
    first, second, third = instructions(
        "add.u32\n %r1,\n %r2,\n %r3; sub.u32 %r1, %r1, %r2;\nnot.b32 %r1, %r2;"
    )
    assert first.text == "add.u32 %r1, %r2, %r3"
    assert [second.line - first.line, third.line - first.line] == [3, 4]
    text = kernel("\n\n  add.u32 %r1, %r2, %r3;")
    (found,) = parse(text).entries["k"].instructions[4:-1]
    assert text.split("\n")[found.line - 1].strip() == "add.u32 %r1, %r2, %r3;"


def test_comments_keep_line_numbers():
    text = kernel("/* two\n lines; */ // and } more;\n  add.u32 %r1, %r2, %r3; // {")
    (found,) = parse(text).entries["k"].instructions[4:-1]
    assert text.split("\n")[found.line - 1].strip().startswith("add.u32")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("42", 42), ("-7", -7), ("0x1F", 31), ("0X1f", 31), ("0xFFFFFFFFU", 2**32 - 1), ("017", 15),
     ("0b101", 5), ("5U", 5), ("-0x10", -16), ("WARP_SZ", 32)],
)  # fmt: skip
def test_integer_constants(text, value):
    (found,) = instructions(f"mov.u32 %r1, {text};")
    assert found.operands[1] == Immediate(value)


@pytest.mark.parametrize(
    ("text", "bits", "kind"),
    [("0f3F800000", 0x3F800000, "f32"), ("0F3f800000", 0x3F800000, "f32"),
     ("0d3FF0000000000000", 0x3FF0000000000000, "f64"), ("1.0", 0x3FF0000000000000, "f64"),
     ("-2.5e1", 0xC039000000000000, "f64")],
)  # fmt: skip
def test_float_constants(text, bits, kind):
    (found,) = instructions(f"mov.f32 %f1, {text};")
    assert found.operands[1] == Immediate(bits, kind)


def test_pairs_and_addresses():
    pair, plain, offset, fixed = instructions(
        "setp.eq.u32 %p1|%p2, %r1, %r2; ld.u32 %r1, [%rd1]; ld.u32 %r1, [%rd1 + 0x10];"
        "ld.shared.u32 %r1, [64];"
    )
    assert isinstance(pair.operands[0], Pair)
    assert pair.operands[0].second.name == "%p2"
    assert plain.operands[1].offset == 0
    assert offset.operands[1].offset == 16
    assert fixed.operands[1] == Address(Immediate(64))


def test_inner_scopes_hide_outer_names():
    body = """
    mov.u32 %y0, 1;
    .reg .b32 t;
    mov.u32 t, 10;
    {
        .reg .b32 t;
        mov.u32 t, 20;
        add.u32 %y0, %y0, t;
        bra skip;
        mov.u32 %y0, 0;
    skip:
    }
    {
        .reg .b32 u;
        mov.u32 u, 300;
        add.u32 %y0, %y0, u;
        bra skip;
        mov.u32 %y0, 0;
    skip:
    }
    add.u32 %y0, %y0, t;
"""
    assert (compute(body, "u32") == 1 + 20 + 300 + 10).all()
    fault(
        UnsupportedPtxError, "{ .reg .b32 u; mov.u32 u, 1; }\n mov.u32 %r1, u;", instruction="mov.u32 %r1, u;"
    )


def test_register_lists_and_labels():
    found = instructions(".reg .f32 a, b; .reg .pred q<3>;\n$L_1: mov.f32 a, b; @q2 bra $L_1;")
    assert isinstance(found[0].operands[0], Register)
    assert found[0].operands[0].type == "f32"
    assert found[1].operands[0].name == "$L_1"
    assert found[1].guard.type == "pred"


def test_variables():
    module = """
    .global .align 4 .u32 numbers[4] = {1, 2, 3};
    .const .align 8 .b8 octets[8] = {255, 1};
    .shared .align 16 .b8 tile[48];
    .shared .f32 row[2][3];
    .extern .shared .align 16 .b8 dynamic[];
"""
    parsed = parse(kernel("mov.u64 %rd1, row; mov.u64 %rd2, dynamic; mov.u64 %rd3, row+8;", module=module))
    numbers = parsed.variables["numbers"]
    assert (numbers.size, numbers.initial) == (16, np.array([1, 2, 3, 0], "<u4").tobytes())
    assert parsed.variables["octets"].initial == bytes([255, 1, 0, 0, 0, 0, 0, 0])
    entry = parsed.entries["k"]
    assert entry.shared_bytes == 48 + 24
    row, dynamic, inside = (i.operands[1] for i in entry.instructions[4:-1])
    assert (row.offset, inside.offset) == (48, 56)
    assert dynamic == Symbol("dynamic", "shared", 1024)


def test_parameters():
    text = kernel(
        "", parameters=".param .u32 a, .param .align 8 .b8 b[24], .param .u64 .ptr .global .align 16 c"
    )
    entry = parse(text).entries["k"]
    assert entry.parameters == {"a": (0, 4), "b": (8, 24), "c": (32, 8)}
    assert entry.parameter_bytes == 40


def test_directives():
    entry = parse(kernel('.pragma "nounroll";', directives=".maxntid 64, 2\n.minnctapersm 1")).entries["k"]
    assert entry.threads_limit == 128
    assert parse(kernel("")).target == "sm_90a"


def test_source_lines():
    body = ".loc 1 7 3\n mov.u32 %r1, 1;\n.loc 1 9 1, function_name $L, inlined_at 1 2 3\n"
    body += "ld.global.u32 %r1, [%rd1];"
    text = kernel(body) + '\n.file 1 "/tmp/kernel.cu"\n.section .debug_str { .b8 1 }\n'
    found = parse(text).entries["k"].instructions[4:]
    assert found[0].source == SourceLine("/tmp/kernel.cu", 7)
    assert (found[1].source.file, found[1].source.line) == ("/tmp/kernel.cu", 9)
    with pytest.raises(MemoryAccessError) as caught:
        emulator.launch(text, "k", 1, 32, [])
    assert caught.value.at.cuda_line == "/tmp/kernel.cu(9) in /tmp/kernel.cu(2)"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "PTX"), ("int main() {}", "line 1"), (kernel("")[:-3], "brace"), (kernel("mov.u32 %r1, 1"), "line"),
     (kernel("mov.u32 %r1, , 2;"), "line 2"), (kernel("mov.u32 %r1, 12ab;"), "line 2"),
     (kernel("ld.u32 %r1, [%rd1*4];"), "line 2"), (kernel("mov.u32 %r1, 5 6;"), "line 2")],
)  # fmt: skip
def test_no_ptx(text, words):
    with pytest.raises((PtxSyntaxError, UnsupportedPtxError)) as caught:
        emulator.launch(text, "k", 1, 32, [])
    assert words in str(caught.value)


def test_unknown_entry():
    with pytest.raises(PtxSyntaxError) as caught:
        emulator.launch(kernel(""), "other", 1, 32, [])
    assert "one of k" in str(caught.value)


def test_undeclared_register():
    fault(UnsupportedPtxError, "mov.u32 %r1, missing;", instruction="mov.u32 %r1, missing;")
    fault(UnsupportedPtxError, "mov.u32 %r99, 1;", instruction="mov.u32 %r99, 1;")
    fault(UnsupportedPtxError, "mov.u32 %r1, %nonsense;", instruction="mov.u32 %r1, %nonsense;")
    fault(UnsupportedPtxError, "bra nowhere;", instruction="bra nowhere;")
    fault(UnsupportedPtxError, "bra %r1;", instruction="bra %r1;")


def test_declarations_that_are_unknown():
    fault(UnsupportedPtxError, ".reg .b128 %q;\n mov.b128 %q, %q;")
    with pytest.raises(UnsupportedPtxError):
        run("", module=".tex .u64 texture;")
