"""Every entry of every layer against its record, and damaged ones out of the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flashactor.cache.claim import KeyClaim
from flashactor.cache.cubin_cache import CubinCache, Layer
from flashactor.cache.folder import CubinFolder
from flashactor.errors import BundleError, CacheCorruptError, CachePermissionError


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was stored.

    Attributes:
        layer: the folder or file.
        key: the entry; "" if the whole layer cannot be read.
        label: the kernel; "" if its record does not say.
        reason: what is wrong.
        set_aside: whether it is in the quarantine now, so that it is compiled anew.
    """

    layer: Path
    key: str
    label: str
    reason: str
    set_aside: bool = False


@dataclass(slots=True)
class Verification:
    """What was looked at, and what was wrong with it.

    Attributes:
        entries: how many entries were loaded.
        damages: the bad ones.
    """

    entries: int = 0
    damages: list[Damage] = field(default_factory=list)


def verify(cache: CubinCache, *, repair: bool = False) -> Verification:
    """Load everything, to the end, whatever is found.

    Args:
        cache: the cache whose layers to read.
        repair: set damaged entries of the writable folder aside; the reason says why one cannot be.
    """
    result = Verification()
    for layer in cache.layers:
        try:
            keys = layer.list_keys()
        except (BundleError, CachePermissionError) as error:
            result.damages.append(Damage(layer.path, "", "", str(error.got)))
            continue
        except OSError as error:
            result.damages.append(Damage(layer.path, "", "", f"it cannot be read: {error.strerror or error}"))
            continue
        for key in keys:
            result.entries += 1
            reason = _reason_against(layer, key)
            if reason:
                label, aside = _label(layer, key), False
                if repair and layer is cache.folder:
                    try:
                        aside = _set_aside(cache.folder, key)
                    except OSError as error:
                        reason += f"; it cannot be set aside, make the folder writable: {error.strerror}"
                result.damages.append(Damage(layer.path, key, label, reason, aside))
    return result


def _reason_against(layer: Layer, key: str) -> str:
    try:
        layer.peek(key)
    except CacheCorruptError as error:
        return str(error.got)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return ""


def _label(layer: Layer, key: str) -> str:
    try:
        return layer.entry(key).record.label
    except (CacheCorruptError, OSError):
        return ""


def _set_aside(folder: CubinFolder, key: str) -> bool:
    """Whether the entry is in the quarantine now; not if a process made it whole meanwhile, or is at it."""
    folder.create()
    claim = KeyClaim(folder.locks_path, key)
    if not claim.acquire():
        return False
    with claim:
        if not _reason_against(folder, key):
            return False
        folder.set_aside(key)
    return True
