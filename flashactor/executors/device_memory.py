"""What to do when a device has no memory left: take back what libraries keep in pools, and name the sizes."""

from __future__ import annotations

import sys

from flashactor.errors import OutOfMemoryError
from flashactor.executors.cuda_driver import CudaDriver


def release_pools() -> None:
    """Have torch and cupy return the memory that they keep and that no array uses, where they are loaded."""
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()
    if cupy := sys.modules.get("cupy"):
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def with_sizes(error: OutOfMemoryError, wanted: int, driver: CudaDriver) -> OutOfMemoryError:
    """The same error, with the bytes that were wanted, and those that are free."""
    free, total = driver.memory_info()
    sized = OutOfMemoryError(
        field=error.field,
        got=f"{error.got}; {wanted} bytes wanted for outputs and workspace, {free} free of {total}",
        expected=error.expected,
        remedy=error.remedy,
    )
    sized.__cause__ = error.__cause__
    return sized
