"""Whether a cache may be believed: a cubin is code, so only those may write it who may write ours."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from flashactor.errors import CachePermissionError
from flashactor.settings import PACKAGE_ROOT


def require_private(folder: Path, *, any_owner: bool = False) -> None:
    """Refuse a folder, or a bundle's file, that others may write.

    One that does not exist is fine: it will be made private. Its owner must be this user, root, or who owns
    the installed package. A group counts as others unless it is the user's own of the same name, as many
    distributions make it. Whoever may write the package may write the cache too: nothing is gained by it.

    Args:
        folder: what to look at.
        any_owner: whether its owner may be anyone, as of a bundle that the user chose.

    Raises:
        CachePermissionError: others may write it.
    """
    try:
        found = folder.stat()
    except OSError:
        return  # missing or unreadable: whoever reads it will say so
    package = PACKAGE_ROOT.stat()
    if package.st_mode & stat.S_IWOTH:
        return
    chmod = f"run chmod go-w {folder}, or "
    if found.st_mode & stat.S_IWOTH:
        _refuse(folder, chmod, f"everyone may write (mode {stat.S_IMODE(found.st_mode):o})")
    group_of_package = package.st_gid if package.st_mode & stat.S_IWGRP else None
    if found.st_mode & stat.S_IWGRP and found.st_gid != group_of_package and not _is_own_group(found.st_gid):
        _refuse(folder, chmod, f"group {found.st_gid} may write (mode {stat.S_IMODE(found.st_mode):o})")
    if not any_owner and found.st_uid not in (os.geteuid(), 0, package.st_uid):
        _refuse(folder, "", f"user {found.st_uid} owns")


def _is_own_group(gid: int) -> bool:
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:  # a user or group without a name: nobody can say who is in it
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _refuse(path: Path, remedy: str, why: str) -> None:
    raise CachePermissionError(
        field="cache",
        got=f"{path}, which {why}",
        expected="one that only this user may write: a cubin from it runs as code",
        remedy=f"{remedy}choose another with FLASHACTOR_CACHE_DIR or FLASHACTOR_CACHE_BUNDLES, or set "
        "FLASHACTOR_CACHE_SHARED=1 if you trust all who may write it",
    )
