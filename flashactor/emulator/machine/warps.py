"""Instructions in which the lanes of a warp take part together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.window import Mask, Window
from flashactor.errors import DivergenceError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]

_LANES = np.arange(32)
_BITS = np.uint32(1) << _LANES.astype(np.uint32)


class WarpUnit:
    """Executes shfl, vote, redux, elect, activemask and bar.warp.sync."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine

    # ---- who takes part
    def whole(self, w: Window, m: Mask, i: int) -> Any:
        """The warps of a ``.sync.aligned`` instruction: True for all of the window, else their numbers.

        Raises:
            DivergenceError: a warp of which some lanes are elsewhere.
        """
        if m is True:
            return True
        lanes = m.reshape(-1, 32)
        some = lanes.any(1)
        partial = some & ~lanes.all(1)
        if partial.any():
            alive = self._m.alive[w.lanes].reshape(-1, 32)
            # Lanes that have left the kernel do not count.
            broken = partial & (alive & ~lanes).any(1)
            if broken.any():
                self._diverged(w, i, int(np.argmax(broken)), lanes, alive)
        return np.flatnonzero(some)

    def _diverged(self, w: Window, i: int, warp: int, lanes: Array, alive: Array) -> NoReturn:
        missing = np.flatnonzero(alive[warp] & ~lanes[warp])
        self._m.fault(
            DivergenceError, i, "warp",
            f"a .sync instruction without lanes {', '.join(map(str, missing[:8]))} of the warp",
            "all lanes that it names", "move it out of the branch, or join the lanes before it",
            lane=int(w.lanes[warp * 32 + int(np.argmax(lanes[warp]))]),
        )  # fmt: skip

    def _require_members(self, w: Window, m: Mask, i: int, members: Any) -> tuple[Array, Array]:
        """The active lanes, by warp, and for each of them who takes part with it: ``[warp][1 or 32][32]``.

        Every lane that a mask names must be here, with the same mask; and a lane's own mask must name it.
        """
        lanes = w.active_by_warp(m)
        masks = w.by_warp(members) if np.ndim(members) else np.full(lanes.shape, members)
        first = masks[lanes][0]
        if first == 0xFFFFFFFF and (np.ndim(members) == 0 or (masks[lanes] == first).all()):
            if m is not True:
                self.whole(w, m, i)
            return lanes, lanes[:, None]
        named = (masks[..., None] & _BITS) != 0
        alive = self._m.alive[w.lanes].reshape(-1, 32)
        wrong = lanes & ~named[:, _LANES, _LANES]
        differ = lanes[:, :, None] & named & lanes[:, None] & (masks[:, :, None] != masks[:, None])
        for bad, got in (
            (wrong, "a mask without the lane that executes it"),
            (differ.any(2), "a mask unlike that of a lane that it names"),
        ):
            if bad.any():
                self._m.fault(
                    DivergenceError, i, "membermask", got,
                    "one mask for all that it names", "build the mask before the branch",
                    lane=int(w.lanes[int(np.argmax(bad))]),
                )  # fmt: skip
        absent = (lanes[:, :, None] & named & alive[:, None] & ~lanes[:, None]).any(1)
        if absent.any():
            self._diverged(w, i, int(np.argmax(absent.any(1))), lanes, absent)
        return lanes, named & lanes[:, None]

    # ---- instructions
    def synchronize(self, w: Window, m: Mask, i: int, members: Any) -> None:
        """bar.warp.sync: what its lanes did before is seen by its lanes after."""
        self._require_members(w, m, i, members)
        if self._m.clocks is not None:
            self._m.clocks.synchronize_warps(w, m)

    def shuffle(
        self, w: Window, m: Mask, i: int, mode: str, target: Array, valid: Array | None,
        a: Any, b: Any, c: Any, members: Any,
    ) -> None:  # fmt: skip
        """shfl.sync (PTX ISA, 9.7.9.6): lanes exchange registers within segments."""
        lanes, peers = self._require_members(w, m, i, members)
        values = w.by_warp(a)
        lane = _LANES
        delta: Any
        control: Any
        if np.ndim(b) == 0 and np.ndim(c) == 0:
            delta, control = np.int64(b) & 31, np.int64(c)
        else:
            delta, control = w.by_warp(b).astype(np.int64) & 31, w.by_warp(c).astype(np.int64)
        segment, clamp = (control >> 8) & 31, control & 31
        lowest = lane & segment
        highest = lowest | (clamp & ~segment)
        if mode == "bfly":
            source = lane ^ delta
            inside = source <= highest
        elif mode == "up":
            source = lane - delta
            inside = source >= highest  # its clamp is the segment's lowest lane
        elif mode == "down":
            source = lane + delta
            inside = source <= highest
        else:
            source = lowest | (delta & ~segment)
            inside = source <= highest
        source = np.where(inside, source, lane)
        fixed = source.ndim == 1
        result = values[:, source] if fixed else np.take_along_axis(values, source, 1)
        if m is True and peers.shape[1] == 1:
            absent = np.zeros(1, bool)
        else:
            wide = np.broadcast_to(source, lanes.shape)[..., None]
            there = np.take_along_axis(np.broadcast_to(peers, (*lanes.shape, 32)), wide, 2)
            absent = lanes & ~there[..., 0]
        if absent.any():
            warp = int(np.argmax(absent.any(1)))
            lane_ = int(np.argmax(absent[warp]))
            self._m.fault(
                DivergenceError, i, "shfl", "a value from a lane that is not here",
                "a source lane that executes the shuffle too", "join the lanes before the shuffle",
                lane=int(w.lanes[warp * 32 + lane_]),
            )  # fmt: skip
        self._put(w, m, target, result)
        if valid is not None:
            self._put(w, m, valid, np.broadcast_to(inside, lanes.shape))

    def vote(
        self, w: Window, m: Mask, i: int, mode: str, target: Array, predicate: Any, members: Any
    ) -> None:
        """vote.sync."""
        _, peers = self._require_members(w, m, i, members)
        true = w.by_warp(predicate)[:, None] & peers
        if mode == "ballot":
            result = (true * _BITS).sum(2, dtype=np.uint32)
        elif mode == "any":
            result = true.any(2)
        elif mode == "all":
            result = (true == peers).all(2)
        else:
            result = (true == peers).all(2) | ~true.any(2)
        self._put(w, m, target, result)

    def active_mask(self, w: Window, m: Mask, i: int, target: Array) -> None:
        """activemask."""
        lanes = w.active_by_warp(m)
        result = (lanes * _BITS).sum(1, dtype=np.uint32)
        self._put(w, m, target, result[:, None])

    def reduce(
        self, w: Window, m: Mask, i: int, operation: str, target: Array, value: Any, members: Any,
        magnitude: bool, nan: bool,
    ) -> None:  # fmt: skip
        """redux.sync."""
        _, peers = self._require_members(w, m, i, members)
        values = np.abs(w.by_warp(value)) if magnitude else w.by_warp(value)
        functions: dict[str, Any] = {
            "add": np.add, "min": np.minimum, "max": np.maximum,
            "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
        }  # fmt: skip
        function = functions[operation]
        if values.dtype.kind == "f":
            function = {"min": np.minimum if nan else np.fmin, "max": np.maximum if nan else np.fmax}[
                operation
            ]
            neutral: Any = np.inf if operation == "min" else -np.inf
        else:
            limits = np.iinfo(values.dtype)
            neutral = {"min": limits.max, "max": limits.min, "and": -1 if limits.min else limits.max}.get(
                operation, 0
            )
        masked = np.where(peers, values[:, None], np.array(neutral).astype(values.dtype))
        self._put(w, m, target, function.reduce(masked, axis=2, dtype=values.dtype))

    def elect(self, w: Window, m: Mask, i: int, target: Array, elected: Array, members: Any) -> None:
        """elect.sync: the lowest lane of the mask."""
        _, peers = self._require_members(w, m, i, members)
        leader = peers.argmax(2)
        self._put(w, m, target, leader.astype(np.uint32))
        self._put(w, m, elected, leader == _LANES)

    @staticmethod
    def _put(w: Window, m: Mask, target: Array, values: Array) -> None:
        """Store a value for each lane, or one for each warp ``[warp][1]``."""
        values = np.broadcast_to(values, (values.shape[0], 32)).reshape(w.shape)
        if m is True:
            target[...] = values
        else:
            np.copyto(target, values, where=m, casting="unsafe")
