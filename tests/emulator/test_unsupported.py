"""What the emulator does not know is refused before anything runs, with its line and text."""

import numpy as np
import pytest
from ptx_text import fault, kernel

from flashactor import emulator
from flashactor.errors import UnsupportedPtxError


@pytest.mark.parametrize(
    "instruction",
    ["frobnicate.u32 %r1, %r2;", "tex.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, [%rd1, {%f1,%f2}];",
         "alloca.u64 %rd1, %rd2;",
     "dp4a.u32.u32 %r1, %r2, %r3, %r4;", "call foo;", "brx.idx %r1, targets;", "add.cc.u32 %r1, %r2, %r3;",
     "add.sat.s32 %r1, %r2, %r3;", "add.rz.f32 %f1, %f2, %f3;", "mul.rm.f64 %fd1, %fd2, %fd3;",
          "mul.u32 %r1, %r2, %r3;",
     "fma.rz.f32 %f1, %f2, %f3, %f4;", "div.rp.f32 %f1, %f2, %f3;", "sqrt.rz.f32 %f1, %f2;",
     "ex2.fast.f32 %f1, %f2;", "lg2.approx.f16 %h1, %h2;", "min.xorsign.abs.f32 %f1, %f2, %f3;",
     "add.relu.f16 %h1, %h2, %h3;", "add.sat.bf16 %h1, %h2, %h3;", "prmt.b32.f4e %r1, %r2, %r3, %r4;",
     "setp.eq.f16x2 %p1|%p2, %r1, %r2;", "setp.eq %p1, %r1, %r2;", "bra.nowhere END;", "ret.foo;",
          "exit.now;",
     "lop3.or.b32 %p1|%r1, %r2, %r3, %r4, 5, %p2;", "fence.proxy.tensor;", "bar.sync.foo 0;",
          "shfl.sync.b32 %r1, %r2;",
     "mov.u32 %r1, %envreg0;", "add.u64 %r1, %r2, %r3;", "add.u32 %h1, %r2, %r3;", "cvt.rn.f16.f32 %h1;",
     "membar.proxy;", "add.u32 %r1, %r2;",
     "add.u32 %r1, %r2, %r3, %r4;", "mov.u32 %r1;", "ld.u32 %r1, [%rd1], %r2;",
          "setp.eq.u32 %p1, %r1, %r2, %p2;",
     "setp.eq.and.u32 %p1, %r1, %r2;", "min.u32 %r1, %r2, %r3, %r4;", "max.f16 %h1, %h2, %h3, %h4;",
     "min.relu.u32 %r1, %r2, %r3;", "neg.u32 %r1, %r2;",
     "setp.lo.s32 %p1, %r1, %r2;", "setp.equ.u32 %p1, %r1, %r2;", "setp.lt.b32 %p1, %r1, %r2;",
     "set.eq.u64.u32 %rd1, %r1, %r2;", "@%r1 add.u32 %r1, %r2, %r3;", "activemask.b32 %p1;",
     "mov.b32 %r1, {%r2, %r3};", "mov.b32 {%h1, %h2, %h3, %h4}, %r1;", "add.u32 %r1, %p1, %r2;",
     "not.pred %p1, %r1;",
     "add.b32 %r1, %r2, %r3;", "and.u32 %r1, %r2, %r3;", "not.f32 %f1, %f2;",
          "fma.rn.u32 %r1, %r2, %r3, %r4;",
     "fma.f32 %f1, %f2, %f3, %f4;", "div.f32 %f1, %f2, %f3;", "sqrt.f32 %f1, %f2;",
          "ex2.approx.f64 %fd1, %fd2;",
     "ex2.f32 %f1, %f2;", "shfl.sync.idx.u64 %rd1, %rd2, 0, 31, -1;", "mov.u8 %h1, %h2;",
     "selp.pred %p1, %p2, %p3, %p4;", "mul24.lo.u64 %rd1, %rd2, %rd3;", "copysign.u32 %r1, %r2, %r3;",
     "shf.l.wrap.u64 %rd1, %rd2, %rd3, %r1;", "div.b32 %r1, %r2, %r3;", "mul.wide.u64 %rd1, %rd2, %rd3;",
          "cvt.u32.u16 %r1, %h1, %h2;",
     "cvt.rn.f16x2.f32 %r1, %f1;", "prefetch.L3 [%rd1];"],
)  # fmt: skip
def test_instructions(instruction):
    output = np.zeros(32, np.uint32)
    error = fault(UnsupportedPtxError, f"st.global.u32 [%a], 1;\nEND:\n {instruction}", {"a": output},
                  instruction=instruction)  # fmt: skip
    assert not output.any()
    assert "docs/emulator.md" in str(error)


@pytest.mark.parametrize(
    ("module", "text"),
    [(".func helper() { ret; }", ".func helper"),
         (".visible .func (.param .b32 r) f(.param .b32 x) { ret; }", "func"),
     (".texref t;", ".texref"), (".alias a, b;", ".alias")],
)  # fmt: skip
def test_declarations(module, text):
    with pytest.raises(UnsupportedPtxError) as caught:
        emulator.launch(kernel("", module=module), "k", 1, 32, [])
    assert caught.value.at.ptx_line == 4
    assert text in caught.value.at.instruction


def test_clusters_of_several_blocks():
    with pytest.raises(UnsupportedPtxError, match="cluster"):
        emulator.launch(kernel("", directives=".reqnctapercluster 2, 1, 1"), "k", 2, 32, [])
    emulator.launch(kernel("", directives=".reqnctapercluster 1, 1, 1"), "k", 2, 32, [])


def test_unreachable_instructions_are_not_translated():
    emulator.launch(kernel("bra END;\n frobnicate.u32 %r1;\nEND:"), "k", 1, 32, [])
