"""Bundles: many cubins in one file that is the same bytes wherever it is made of the same cubins.

A bundle is an uncompressed ZIP archive without times or owners: ``SHA256SUMS`` first, in the format of
``sha256sum``, then ``cubins/<key>.cubin`` and ``records/<key>.json`` by name. Members are read by names made
of keys; a name in the archive is never used as a path.
"""

from __future__ import annotations

import errno
import re
import struct
import threading
import zipfile
from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from flashactor.cache.folder import Entry, write_atomically
from flashactor.cache.record import CachedKernel, CubinRecord, corrupt_error
from flashactor.cache.trust import require_private
from flashactor.errors import BundleError, CacheCorruptError

SUMS = "SHA256SUMS"
LARGEST_MEMBER = 64 << 20
"""Bytes; the largest cubin here has a few hundred thousand."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that ZIP knows."""

_MEMBER_NAME = re.compile(r"records/[0-9a-f]{64}\.json|cubins/[0-9a-f]{64}\.cubin")

_DAMAGE = (zipfile.BadZipFile, struct.error, KeyError, ValueError, RuntimeError, OverflowError, EOFError)
"""What zipfile raises when an archive is damaged."""


def write_bundle(path: Path, kernels: Iterable[CachedKernel]) -> str:
    """Write kernels to one file, in the order of their keys; its SHA-256.

    Raises:
        OSError: it cannot be written; then there is no file.
    """
    members: dict[str, bytes] = {}
    for kernel in kernels:
        record = kernel.record.without_history()
        members[_cubin_name(record.key)] = kernel.cubin
        members[_record_name(record.key)] = record.to_json().encode()
    names = sorted(members)
    sums = "".join(f"{sha256(members[name]).hexdigest()}  {name}\n" for name in names)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(SUMS, sums.encode()), *((name, members[name]) for name in names)]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, content)
    content = buffer.getvalue()
    write_atomically(path, content)
    path.chmod(0o644)
    return sha256(content).hexdigest()


class BundleFile:
    """A bundle that is read where it is; every method may be called from any thread."""

    def __init__(self, path: Path, *, shared: bool = True) -> None:
        """Nothing is read yet.

        Args:
            path: the file.
            shared: take it even if others may write it, as one that is read only once.
        """
        self.path = path
        self._shared = shared
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._sums: dict[str, str] = {}

    def load(self, key: str) -> CachedKernel | None:
        """The verified kernel of a key; None when it is not there.

        Raises:
            CacheCorruptError: what is there is not what was written.
            BundleError: the file is no bundle.
            CachePermissionError: others may write it.
            OSError: it cannot be read.
        """
        archive = self._open()
        if _record_name(key) not in self._sums:
            return None
        record = CubinRecord.from_json(self._member(archive, _record_name(key)))
        return CachedKernel(record.check(key, self._member(archive, _cubin_name(key))), record, "bundle")

    def peek(self, key: str) -> CachedKernel | None:
        """As ``load``, which leaves no trace in a bundle."""
        return self.load(key)

    def list_keys(self) -> list[str]:
        """The keys of its records, sorted; raises as ``load``."""
        self._open()
        return [name[len("records/") : -len(".json")] for name in self._sums if name.startswith("records/")]

    def entry(self, key: str) -> Entry:
        """A key's record; raises as ``load``."""
        archive = self._open()
        record = CubinRecord.from_json(self._member(archive, _record_name(key)))
        return Entry(record, self.path.stat().st_mtime)

    def read(self) -> list[CachedKernel]:
        """Every kernel, each verified; nothing if one of them is not what was written.

        Raises:
            BundleError: the file is no bundle, is damaged, or has a member that does not belong.
            OSError: it cannot be read.
        """
        archive = self._open()
        names = [info.filename for info in archive.infolist()]
        expected = [
            SUMS,
            *(name for key in self.list_keys() for name in (_cubin_name(key), _record_name(key))),
        ]
        if not sorted(names) == sorted(expected) == sorted([SUMS, *self._sums]):
            odd = sorted({*names, *self._sums} ^ set(expected)) or ["a name twice"]
            raise _not_a_bundle(self.path, f"{odd[0]!r}, which does not belong or is missing")
        try:
            kernels = [self.load(key) for key in self.list_keys()]
        except CacheCorruptError as error:
            raise _not_a_bundle(self.path, error.got) from error
        return [kernel for kernel in kernels if kernel is not None]

    def _open(self) -> zipfile.ZipFile:
        with self._lock:
            if self._archive is None:
                if not self._shared:
                    require_private(self.path, any_owner=True)
                try:
                    archive = zipfile.ZipFile(self.path)
                    self._sums = _parse_sums(_read(archive, SUMS))
                except (*_DAMAGE, CacheCorruptError) as error:
                    raise _not_a_bundle(self.path, f"{type(error).__name__}: {error}") from error
                self._archive = archive
            return self._archive

    def _member(self, archive: zipfile.ZipFile, name: str) -> bytes:
        with self._lock:
            content = _read(archive, name)
        if sha256(content).hexdigest() != self._sums.get(name):
            raise corrupt_error(f"{name} with another content", "the content that SHA256SUMS has")
        return content


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member.

    Raises:
        CacheCorruptError: it is missing, damaged, compressed or too large.
        OSError: the file cannot be read.
    """
    try:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > LARGEST_MEMBER:
            raise corrupt_error(f"{name}, compressed or too large", "an uncompressed member")
        return archive.read(info)
    except _DAMAGE as error:
        raise corrupt_error(f"{name}: {error}", "a whole member") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # of an offset that is none
            raise
        raise corrupt_error(f"{name}: {error}", "a whole member") from error


def _parse_sums(text: bytes) -> dict[str, str]:
    """Name -> SHA-256, of names that are made of keys alone.

    Raises:
        ValueError: another line.
    """
    sums = {}
    for line in text.decode("ascii").splitlines():
        digest, _, name = line.partition("  ")
        if not _MEMBER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} in {SUMS}")
        sums[name] = digest
    return sums


def _record_name(key: str) -> str:
    return f"records/{key}.json"


def _cubin_name(key: str) -> str:
    return f"cubins/{key}.cubin"


def _not_a_bundle(path: Path, got: object) -> BundleError:
    return BundleError(
        field="bundle",
        got=f"{path}: {got}",
        expected="a file that flashactor cache export wrote",
        remedy="copy or export it again; nothing of it was imported",
    )
