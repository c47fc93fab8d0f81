"""FlashAttention-3 requests (Shah et al. 2024, arXiv:2407.08608): Hopper and newer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flashactor.dispatch import DispatchKey
from flashactor.errors import Fa3RequiresHopperError
from flashactor.requests.base import require_type
from flashactor.requests.dense import DenseFwdRequest
from flashactor.types import PersistentMode, SmArch

GRID = PersistentMode.grid()


@dataclass(frozen=True)
class Fa3FwdRequest(DenseFwdRequest):
    """A forward pass of the FlashAttention-3 generation, f16 or bf16.

    Attributes:
        persistent: how tiles are spread over the device.
    """

    persistent: PersistentMode = GRID

    DEFAULT_ARCH: ClassVar[SmArch] = SmArch.SM90A

    def __post_init__(self) -> None:
        require_type("persistent", self.persistent, PersistentMode)
        super().__post_init__()

    @property
    def is_persistent(self) -> bool:
        """Whether blocks stay resident and take tiles."""
        return self.persistent.is_persistent

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key, name = super()._resolve(arch)
        if not key.arch.supports_fa3:
            raise Fa3RequiresHopperError(
                field="arch",
                got=key.arch.target,
                expected="sm_90a or sm_100a for a FlashAttention-3 request",
                remedy="use Fa2FwdRequest, which runs on every architecture",
            )
        return key, name
