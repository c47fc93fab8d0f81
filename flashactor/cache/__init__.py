"""Cubins where they are found again: memory, a folder, bundles; verified, and compiled once at most."""

from flashactor.cache.cubin_cache import CacheCounts, CubinCache
from flashactor.cache.record import CachedKernel, CubinRecord

__all__ = ["CacheCounts", "CachedKernel", "CubinCache", "CubinRecord"]
