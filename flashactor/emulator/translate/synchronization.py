"""Barriers, fences and what else orders threads (PTX ISA, section 9.7.13)."""

from __future__ import annotations

from flashactor.emulator.ptx.module import Address, Discard, Register
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.statement import Statement


@emits("bar", "barrier")
def barrier(s: Statement) -> None:
    """bar.sync, bar.arrive, bar.red, bar.warp.sync, and the same of barrier and barrier.cta."""
    if s.flag("warp"):
        s.require("sync")
        return s.call("warps.synchronize", s.value(s.operands[0], "b32"))
    if s.flag("cluster"):
        # A cluster of one block: arrive and wait order its own threads, which a block's barrier does.
        action = s.require("arrive", "wait")
        s.ignore("acquire", "release", "relaxed", "aligned")
        return s.call("barriers.cluster", repr(action))
    s.ignore("cta")
    action = s.require("sync", "arrive", "red")
    aligned = s.flag("aligned") or s.instruction.opcode == "bar"
    reduction = "None"
    operands = s.operands
    if action == "red":
        operation = s.require("popc", "and", "or")
        if s.type() != ("u32" if operation == "popc" else "pred"):
            s.refuse(f"a barrier's {operation} of this type")
        result = operands[0]
        assert isinstance(result, Register)
        code = "u4" if operation == "popc" else "p"
        reduction = f"({operation!r}, {s.value(operands[-1], 'pred')}, {code!r}, {s.slot(result)})"
        operands = operands[1:-1]
    identifier = s.value(operands[0], "u32") if operands else "0"
    if action == "arrive" and len(operands) < 2:
        s.refuse("an arrival at a barrier without a count")
    count = s.value(operands[1], "u32") if len(operands) > 1 else "None"
    return s.call("barriers.arrive", repr(action), identifier, count, repr(aligned), reduction)


@emits("membar")
def membar(s: Statement) -> None:
    """membar: memory is updated in program order here; the race check notes fences of the device."""
    if s.require("cta", "gl", "sys") != "cta":
        s.call("fence_global")


@emits("fence")
def fence(s: Statement) -> None:
    """fence; those of the asynchronous proxy are checked, the others find memory in order already."""
    if s.flag("proxy"):
        kind = s.require("async", "async::generic", "alias", "tensormap::generic")
        space = s.choice("global", "shared::cta", "shared::cluster")
        s.ignore("acquire", "release", "cta", "cluster", "gpu", "sys", "sync_restrict")
        s.ignore_prefixed("sync_restrict")
        # Only stores to shared memory are checked for a fence, so one of global memory alone is nothing here.
        if kind.startswith("async") and space != "global":
            s.call("mbarriers.fence_proxy")
        return
    if s.flag("mbarrier_init"):
        s.call("mbarriers.fence_init")
    s.ignore("acq_rel", "acquire", "release", "sc")
    if s.choice("cta", "cluster", "gpu", "sys") in ("gpu", "sys"):
        s.call("fence_global")
    s.ignore_prefixed("sync_restrict", "shared::")


@emits("setmaxnreg")
def set_registers(s: Statement) -> None:
    """setmaxnreg: registers pass through the block's pool; what a thread needs, the cubin's checks know."""
    action = s.require("inc", "dec")
    s.require("sync")
    s.require("aligned")
    s.type()
    count = str(s.immediate(s.operands[0]))
    if action == "dec":
        return s.call("registers.release", count)
    _wait(s, f"M.registers.claim(w, {s.mask}, {s.index}, {count})")
    return None


@emits("griddepcontrol")
def dependent_grid(s: Statement) -> None:
    """griddepcontrol: grids run one after the other here, so the one before is always complete."""
    s.require("wait", "launch_dependents")


@emits("nanosleep", "pmevent", "brkpt")
def pause(s: Statement) -> None:
    """No effect on results."""
    if s.instruction.opcode == "nanosleep":
        s.type()


@emits("mbarrier")
def mbarrier(s: Statement) -> None:
    """mbarrier of the block's own shared memory."""
    action = s.require(
        "init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait"
    )
    transactions = action == "arrive" and s.flag("expect_tx")
    no_complete = s.flag("noComplete")
    parity = s.flag("parity")
    relaxed = s.flag("relaxed")
    s.ignore("release", "acquire", "cta", "cluster")
    s.ignore("shared", "shared::cta", "shared::cluster")
    s.ignore("b64")
    operands = list(s.operands)
    result = None if isinstance(operands[0], Address) else operands.pop(0)
    base, offset = s.address(operands[0])
    place = (base, str(offset))
    arguments = [s.value(operand, "u32") for operand in operands[1:2]]
    if action == "init":
        return s.call("mbarriers.initialize", *place, *arguments)
    if action == "inval":
        return s.call("mbarriers.invalidate", *place)
    if action in ("expect_tx", "complete_tx"):
        return s.call("mbarriers.transact", *place, arguments[0], repr(action == "expect_tx"))
    if action in ("arrive", "arrive_drop"):
        if no_complete:
            s.refuse("mbarrier.arrive.noComplete")
        state = "None" if result is None or isinstance(result, Discard) else s.target(result, "b64")
        expected = arguments[0] if transactions else "None"
        count = "np.uint32(1)" if transactions or not arguments else arguments[0]
        drop = action == "arrive_drop"
        return s.call("mbarriers.arrive", *place, count, expected, state, repr(drop), repr(relaxed))
    if result is None:
        s.refuse("a wait without a result")
    assert result is not None
    target = s.target(result, "pred")
    phase = s.value(operands[1], "u32" if parity else "b64")
    blocking = action == "try_wait"
    wait = (
        f"M.mbarriers.wait(w, {s.mask}, {s.index}, {place[0]}, {place[1]}, "
        f"{phase}, {parity}, {blocking}, {target})"
    )
    _wait(s, wait)
    return None


def _wait(s: Statement, wait: str) -> None:
    """End the block of code with a call that says who goes on; lanes whose guard is false do at once."""
    s.emit(f"return {wait}" if s.mask == "m" else f"return w.merged(m, {s.mask}, {wait})")
