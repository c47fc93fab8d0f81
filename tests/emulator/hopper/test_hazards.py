"""The static check of registers that a wgmma owns (PTX ISA, section 9.7.15)."""

import numpy as np
import pytest
from ptx_text import fault, kernel, run
from wgmma_text import COMMIT, DECLARE, FENCE, FILL, SHARED, WAIT, WAIT1, D, E, descriptor, multiply

from flashactor.emulator.hazards import require_no_hazards
from flashactor.emulator.translate.translator import translate
from flashactor.errors import AsyncHazardError, DivergenceError, MemoryAccessError, UnsupportedPtxError

LOOP = "again: {body} add.u32 %i, %i, 1; setp.lt.u32 %q, %i, 4; @%q bra again;"

SOUND = {
    "one product": [FENCE, D, COMMIT, WAIT, "add.f32 %x, %d0, %d1;"],
    "products of one shape on the same registers": [FENCE, D, D, D, COMMIT, WAIT],
    "two groups on different registers": [FENCE, D, COMMIT, E, COMMIT, WAIT1, "add.f32 %d0, %d0, %d1;", WAIT],
    "other registers meanwhile": [FENCE, D, COMMIT, "add.f32 %e0, %e1, %e2;", WAIT],
    "operand registers read meanwhile": [FENCE, D, COMMIT, "add.u32 %i, %a0, %a1;", WAIT],
    "changed after the wait, and fenced": [
        FENCE,
        D,
        COMMIT,
        WAIT,
        "mul.f32 %d0, %d0, %d1;",
        FENCE,
        D,
        COMMIT,
        WAIT,
    ],
    "read after the wait, not changed": [FENCE, D, COMMIT, WAIT, "add.f32 %x, %d0, %d1;", D, COMMIT, WAIT],
    "copies at the back edge of a loop": [
        FENCE,
        LOOP.format(body=f"{D} {COMMIT} mov.f32 %e0, %d0; {E} {COMMIT} mov.f32 %d0, %e0;"),
        WAIT,
    ],
    "a loop that waits": [LOOP.format(body=f"{FENCE} {D} {COMMIT} {WAIT} mul.f32 %d0, %d0, %d1;")],
    "a loop that keeps one group in flight": [
        FENCE,
        LOOP.format(body=f"{D} {COMMIT} {WAIT1}"),
        WAIT,
    ],
    "in a branch of whole warpgroups": [
        "setp.ge.u32 %q, %tid, 128; @%q bra out;",
        FENCE,
        D,
        COMMIT,
        WAIT,
        "out:",
    ],
}

FAULTY = {
    "read in flight": ([FENCE, D, COMMIT, "add.f32 %x, %d0, %d1;", WAIT], "add.f32", "in flight"),
    "written in flight": ([FENCE, D, COMMIT, "mov.f32 %d2, 0f00000000;", WAIT], "mov.f32 %d2", "in flight"),
    "stored in flight": (
        [FENCE, D, COMMIT, "st.shared.f32 [memory], %d3;", WAIT],
        "st.shared.f32",
        "in flight",
    ),
    "not committed": ([FENCE, D, WAIT, "add.f32 %x, %d0, %d1;", COMMIT, WAIT], "add.f32", "in flight"),
    "a copy read in flight": (
        [FENCE, D, COMMIT, "mov.f32 %e0, %d0;", "add.f32 %x, %e0, %e0;", WAIT],
        "add.f32",
        "in flight",
    ),
    "the newest group is not waited for": (
        [FENCE, E, COMMIT, D, COMMIT, WAIT1, "add.f32 %x, %d0, %d0;", WAIT],
        "add.f32",
        "in flight",
    ),
    "an operand written in flight": (
        [FENCE, D, COMMIT, "mov.b32 %a1, 7;", WAIT],
        "mov.b32 %a1, 7",
        "an operand",
    ),
    "another shape on registers in flight": (
        [FENCE, D, multiply("d", 16), COMMIT, WAIT],
        "m64n16k16",
        "in flight",
    ),
    "read at the head of a loop": (
        [FENCE, LOOP.format(body=f"add.f32 %x, %d0, %d0; {D} {COMMIT}"), WAIT],
        "add.f32",
        "in flight",
    ),
    "waited for on one path only": (
        [
            FENCE,
            D,
            COMMIT,
            "setp.eq.u32 %q, %many, 7; @%q bra past;",
            WAIT,
            "past: add.f32 %x, %d0, %d0;",
            WAIT,
        ],
        "add.f32",
        "in flight",
    ),
    "no fence at all": ([D, COMMIT, WAIT], "wgmma.mma_async", "no fence"),
    "no fence after a change": (
        [FENCE, D, COMMIT, WAIT, "mul.f32 %d0, %d0, %d1;", D, COMMIT, WAIT],
        "mma",
        "%d0",
    ),
    "no fence after a changed operand": (
        [FENCE, D, COMMIT, WAIT, "mov.b32 %a2, 5;", D, COMMIT, WAIT],
        "mma",
        "%a2",
    ),
    "a fence before the change": ([FENCE, "mul.f32 %d0, %d0, %d1;", D, COMMIT, WAIT], "mma", "%d0"),
    "a fence on one path only": (
        ["setp.eq.u32 %q, %many, 7; @%q bra past;", FENCE, "past:", D, COMMIT, WAIT],
        "mma",
        "no fence",
    ),
    "a fence in the first turn only": (
        [FENCE, LOOP.format(body=f"{D} {COMMIT} {WAIT} mul.f32 %d0, %d0, %d1;")],
        "mma",
        "%d0",
    ),
    "never committed": ([FENCE, D], "mma", "never committed"),
    "committed after the last wait": ([FENCE, D, WAIT, COMMIT], "mma", "never waited for"),
    "never waited for": ([FENCE, D, COMMIT], "mma", "never waited for"),
    "leaves early": (
        [FENCE, D, COMMIT, "setp.eq.u32 %q, %tid, 7; @%q ret;", WAIT],
        "mma",
        "never waited for",
    ),
}


def body(statements):
    text = DECLARE + "    .shared .align 16 .b8 memory[1024];\n"
    text += "    mov.u32 %i, 0;\n    setp.ne.u32 %on, 1, 0;\n"
    text += f"    mov.b64 %right, {descriptor(0, 128, 256, 0):#x};\n"
    return text + "\n    ".join(statements)


@pytest.mark.parametrize("name", SOUND)
def test_sound_uses_pass(name):
    require_no_hazards(translate(kernel(body(SOUND[name])), "k"))


@pytest.mark.parametrize("name", FAULTY)
def test_faults_are_found(name):
    statements, instruction, words = FAULTY[name]
    error = fault(AsyncHazardError, body(statements), instruction=None, block=128)
    assert words in str(error)
    assert instruction in error.at.instruction
    assert error.at.ptx_line > 20


def test_a_kernel_without_wgmma_is_not_looked_at(monkeypatch):
    text = kernel("add.u32 %r0, %tid, %tid;")
    monkeypatch.setattr("flashactor.emulator.hazards._step", None)
    require_no_hazards(translate(text, "k"))


def shared_product(*, start=1024, wide=0, before="", **options):
    """A product of two descriptors in a kernel whose shared memory is filled."""
    text = FILL + DECLARE.replace(".reg .b64 %left, %right;", ".reg .b64 %left, %right, %base;")
    product = D.replace("{%a0, %a1, %a2, %a3}", "%left").replace("1, 1, 0;", "1, 1, 0, 0;")
    text += f"""
    setp.ne.u32 %on, 1, 0;
    mov.b64 %left, {wide or descriptor(1024, 128, 256, 0):#x};
    mov.b64 %right, {descriptor(start, 128, 256, 0):#x};
    {before}
    {FENCE} {product} {COMMIT} {WAIT}
"""
    arrays = {"image": np.zeros(SHARED // 4, np.uint32)}
    return run(text, arrays, block=options.pop("block", 128), **options)


def test_descriptors_are_checked():
    shared_product()
    with pytest.raises(MemoryAccessError, match="base offset"):
        shared_product(wide=descriptor(1024, 128, 256, 0) | 1 << 49)
    with pytest.raises(MemoryAccessError, match="beyond shared memory"):
        shared_product(start=SHARED - 128)
    with pytest.raises(MemoryAccessError, match="differ"):
        shared_product(before="cvt.u64.u32 %base, %tid; add.u64 %left, %left, %base;")


def test_a_warpgroup_is_four_warps():
    with pytest.raises(DivergenceError):
        shared_product(block=96)


@pytest.mark.parametrize(
    "old_new",
    [
        ("bf16.bf16", "bf16.f16"),
        ("m64n8k16", "m64n8k8"),
        ("m64n8k16", "m64n12k16"),
        ("m64n8k16", "m64n264k16"),
        ("f32.bf16.bf16", "f16.bf16.bf16"),
        ("m64n8k16", "m64n16k16"),
        ("1, 1, 0;", "1, 1;"),
        ("1, 1, 0;", "1, 2, 0;"),
        ("%a0, %a1, %a2, %a3", "%a0, %a1"),
        ("k16.f32.bf16.bf16", "k8.f32.tf32.tf32"),
        ("mma_async", "mma_async.sp"),
    ],
)
def test_forms_that_do_not_exist_are_refused(old_new):
    wrong = D.replace(*old_new)
    assert wrong != D
    with pytest.raises(UnsupportedPtxError):
        translate(kernel(body([FENCE, wrong, COMMIT, WAIT])), "k")
