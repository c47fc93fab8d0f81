"""The wgmma family's forward kernels of 16-bit operands, for sm_90a: which of them, with which tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

from flashactor.kernels.params import FWD_PARAMS, Field, StructLayout, of_type
from flashactor.kernels.spec import DTYPES, Macros, Scores, Tile, TiledSpec
from flashactor.types import DType, SmArch

FAMILY = "sm90_wgmma"
HEAD_DIMS = ((64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256))
"""Padded head_dims of q and k, and of v. Others run in the least of these that holds them."""

CONSUMER_ROWS = 64
"""Rows that a warpgroup multiplies at a time: the M of wgmma."""
_TAIL = of_type("int", "tiles lines lines_together box_rows consumer_rows")
_PADDING = -(FWD_PARAMS.size + 4 * len(_TAIL)) % 64 // 4


def _padding() -> tuple[Field, ...]:
    return of_type("int", " ".join(f"padding_{index}" for index in range(_PADDING)))


HOPPER_PARAMS = StructLayout((*FWD_PARAMS.fields, *_TAIL, *_padding()))
"""``HopperParams`` of sm90/params.cuh behind its tensor maps, which alone have an alignment: 64 bytes."""


@dataclass(frozen=True, slots=True)
class HopperSpec(TiledSpec):
    """A specialisation of sm90/fwd.cu.

    Attributes:
        stages: blocks of keys, and of values, that shared memory holds.
    """

    kind: ClassVar[str] = "fwd"
    source: ClassVar[str] = "sm90/fwd.cu"
    entry: ClassVar[str] = "flash_fwd_sm90"
    params: ClassVar[StructLayout] = HOPPER_PARAMS
    tensor_maps: ClassVar[tuple[str, ...]] = ("q", "k", "v", "out")

    stages: int

    @property
    def consumers(self) -> int:
        """Warpgroups that compute; one more loads."""
        return self.tile.m // CONSUMER_ROWS

    @property
    def shared_bytes(self) -> int:
        return self.tile_bytes + self.barrier_bytes

    @property
    def barrier_bytes(self) -> int:
        """Two mbarriers for each consumer's queries, and for each stage of keys and of values."""
        return 16 * (self.consumers + 2 * self.stages)

    @property
    def tile_bytes(self) -> int:
        """A tile of queries for each consumer, and the stages."""
        return self.tile.m * self.slabbed(self.head_dim) + self.stages * self.key_bytes

    @property
    def slab_bytes(self) -> int:
        """A row of a tile in shared memory is cut into slabs of so many bytes, the span of the swizzle.

        Values are multiplied across their rows, and such an operand ends with a slab (PTX ISA, "Canonical
        layouts"); rows of 96 elements are one and a half slabs of 128 bytes.
        """
        return 64 if 2 * self.head_dim_v % 128 else 128

    def slabbed(self, head_dim: int, element_bytes: int | None = None) -> int:
        """Bytes of a tile's row of so many elements, those of the operands by default."""
        size = element_bytes or self.dtype.size_in_bytes
        return -(-head_dim * size // self.slab_bytes) * self.slab_bytes

    @property
    def key_bytes(self) -> int:
        """A block of keys, and its values."""
        return self.tile.n * (self.slabbed(self.head_dim) + self.slabbed(self.head_dim_v))

    @property
    def macros(self) -> Macros:
        return (self.bf16, *self.stage_macros)

    @property
    def stage_macros(self) -> Macros:
        """Those of the tile and of its stages."""
        return (
            *self.tile_macros,
            ("FA_STAGES", str(self.stages)),
            ("FA_SLAB_BYTES", str(self.slab_bytes)),
            ("FA_PARAMS_PADDING", str(_PADDING)),
        )

    @property
    def flags(self) -> tuple[tuple[str, bool], ...]:
        return self.role_flags

    @property
    def role_flags(self) -> tuple[tuple[str, bool], ...]:
        """Those of the tile."""
        return (("full", self.for_masks != self), ("decode", self.consumers == 1))

    @property
    def for_masks(self) -> HopperSpec:
        """The kernel for the same operands under a mask: another one if this is for no mask alone."""
        return hopper_spec(self.dtype, *self.head_dims, scores=self.scores, decode=self.consumers == 1)

    @property
    def tile_name(self) -> str:
        return f"{self.tile}s{self.stages}"


@dataclass(frozen=True, slots=True)
class HopperTile:
    """A row of a tile table.

    Attributes:
        head_dims: padded, as in HEAD_DIMS.
        tile: the tile; its warps are those of the consumers and of the producer.
        stages: as in HopperSpec.
        reason: why these numbers.
    """

    head_dims: tuple[int, int]
    tile: Tile
    stages: int
    reason: str


THREE, TWO, ONE = 16, 12, 8
"""Warps of so many consumers and a producer."""

FULL_TILES = (
    HopperTile((64, 64), Tile(192, 128, THREE), 2, "exponentials take as long as products"),
    HopperTile((96, 96), Tile(192, 96, THREE), 2, "three consumers, P in registers"),
    HopperTile((128, 128), Tile(128, 176, TWO), 2, "as many keys as shared memory and registers hold"),
    HopperTile((192, 128), Tile(128, 128, TWO), 2, "208 KB: the widest that fits"),
    HopperTile((192, 192), Tile(128, 112, TWO), 2, "216 KB: the widest that fits"),
    HopperTile((256, 256), Tile(128, 80, TWO), 2, "224 KB: the widest that fits"),
)
"""Every query sees every key, scores are plain."""

TILES = (
    HopperTile((64, 64), Tile(192, 128, THREE), 2, "exponentials take as long as products"),
    HopperTile((96, 96), Tile(192, 96, THREE), 2, "three consumers, P in registers"),
    HopperTile((128, 128), Tile(128, 128, TWO), 2, "blocks as wide as high: less is masked"),
    HopperTile((192, 128), Tile(128, 128, TWO), 2, "208 KB: the widest that fits"),
    HopperTile((192, 192), Tile(128, 96, TWO), 2, "narrower than fits: less is masked"),
    HopperTile((256, 256), Tile(128, 64, TWO), 2, "narrower than fits: less is masked"),
)
"""Masks, pages, softcap and ALiBi."""

DECODE_TILES = (
    HopperTile((64, 64), Tile(64, 128, ONE), 3, "104 KB, of which most is on its way"),
    HopperTile((96, 96), Tile(64, 128, ONE), 4, "204 KB, of which most is on its way"),
    HopperTile((128, 128), Tile(64, 128, ONE), 3, "208 KB, of which most is on its way"),
    HopperTile((192, 128), Tile(64, 64, ONE), 4, "184 KB, of which most is on its way"),
    HopperTile((192, 192), Tile(64, 64, ONE), 4, "216 KB, of which most is on its way"),
    HopperTile((256, 256), Tile(64, 64, ONE), 3, "224 KB, of which most is on its way"),
)
"""At most CONSUMER_ROWS packed rows of queries."""

TILE_TABLES = {
    "plain scores, no mask": FULL_TILES,
    "masks, softcap, ALiBi, or pages": TILES,
    "decoding": DECODE_TILES,
}
"""Every table, by what it is for."""


def padded_head_dims(head_dim: int, head_dim_v: int) -> tuple[int, int]:
    """The least of HEAD_DIMS that holds both."""
    return next((qk, v) for qk, v in HEAD_DIMS if head_dim <= qk and head_dim_v <= v)


@lru_cache(maxsize=1024)
def hopper_spec(
    dtype: DType,
    head_dim: int,
    head_dim_v: int | None = None,
    *,
    scores: Scores = Scores.PLAIN,
    full: bool = False,
    decode: bool = False,
) -> HopperSpec:
    """The forward kernel for valid operands; head_dims are padded to the least of HEAD_DIMS that holds them.

    Args:
        dtype, head_dim, head_dim_v: of the operands.
        scores: plain or modified.
        full: whether every query sees every key, and keys do not lie in pages.
        decode: whether there are at most CONSUMER_ROWS packed rows of queries.
    """
    padded = padded_head_dims(head_dim, head_dim if head_dim_v is None else head_dim_v)
    table = DECODE_TILES if decode else FULL_TILES if full and scores is Scores.PLAIN else TILES
    row = next(row for row in table if row.head_dims == padded)
    return HopperSpec(FAMILY, SmArch.SM90A, dtype, *padded, scores, row.tile, row.stages)


def hopper_specs(arch: SmArch) -> tuple[HopperSpec, ...]:
    """Every kernel that the tables can choose, each once; wgmma exists on sm_90a alone."""
    if arch is not SmArch.SM90A:
        return ()
    cells = product(DTYPES, HEAD_DIMS, (Scores.PLAIN, Scores.MODIFIED), (False, True), (False, True))
    found = {
        hopper_spec(dtype, qk, v, scores=scores, full=full, decode=decode): None
        for dtype, (qk, v), scores, full, decode in cells
    }
    return tuple(found)
