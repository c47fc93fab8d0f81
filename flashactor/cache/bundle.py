"""Bundles: many cubins in one file that is the same bytes wherever it is made of the same cubins.

A bundle is an uncompressed ZIP archive without times or owners: ``SHA256SUMS`` first, in the format of
``sha256sum``, then ``cubins/<key>.cubin`` and ``records/<key>.json`` by name. Members are read by names made
of keys; a name in the archive is never used as a path.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zlib import crc32

from flashactor.cache.folder import Entry
from flashactor.cache.output import write_output
from flashactor.cache.record import CachedKernel, CubinRecord, corrupt_error
from flashactor.cache.trust import require_private
from flashactor.errors import BundleError, CacheCorruptError

SUMS = "SHA256SUMS"
LARGEST_MEMBER = 64 << 20
"""Bytes; the largest cubin here has a few hundred thousand."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that ZIP knows."""

_MEMBER_NAME = re.compile(r"records/[0-9a-f]{64}\.json|cubins/[0-9a-f]{64}\.cubin")

_LOCAL_HEADER = struct.Struct("<4s22x4s")
"""Signature, and the lengths of name and extra field, of what precedes a member's content."""

_DAMAGE = (zipfile.BadZipFile, struct.error, KeyError, ValueError, RuntimeError, OverflowError, EOFError)
"""What zipfile raises when an archive is damaged."""


def write_bundle(path: Path, kernels: Iterable[CachedKernel]) -> bytes:
    """Write kernels to one file, in the order of their keys; what was written.

    Raises:
        OutputError: it cannot be written; a file that was there before still is.
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
    write_output(path, content)
    return content


@dataclass(frozen=True, slots=True)
class _Index:
    """What is where in a bundle.

    Attributes:
        file: device, inode, size and time of the file that this is the index of.
        names: of all members, one that is there twice too.
        members: the members.
        sums: SHA-256 of each.
    """

    file: tuple[int, ...]
    names: tuple[str, ...]
    members: dict[str, zipfile.ZipInfo]
    sums: dict[str, str]


class BundleFile:
    """A bundle that is read where it is; every method may be called from any thread and after any fork.

    The file is open only while something is read: an open one would share its place with forked processes.
    """

    def __init__(self, path: Path, *, shared: bool = True) -> None:
        """Nothing is read yet.

        Args:
            path: the file.
            shared: take it even if others may write it, as one that is read only once.
        """
        self.path = path
        self._shared = shared
        self._index: _Index | None = None

    def load(self, key: str) -> CachedKernel | None:
        """The verified kernel of a key; None when it is not there.

        Raises:
            CacheCorruptError: what is there is not what was written.
            BundleError: the file is no bundle.
            CachePermissionError: others may write it.
            OSError: it cannot be read.
        """
        with self._open() as (file, index):
            return _load(file, index, key)

    def peek(self, key: str) -> CachedKernel | None:
        """As ``load``, which leaves no trace in a bundle."""
        return self.load(key)

    def list_keys(self) -> list[str]:
        """The keys of its records, sorted; raises as ``load``."""
        with self._open() as (_, index):
            return _keys(index)

    def entry(self, key: str) -> Entry:
        """A key's record; raises as ``load``."""
        with self._open() as (file, index):
            record = CubinRecord.from_json(_member(file, index, _record_name(key)))
        return Entry(record, self.path.stat().st_mtime)

    def read(self) -> list[CachedKernel]:
        """Every kernel, each verified; nothing if one of them is not what was written.

        Raises:
            BundleError: the file is no bundle, is damaged, or has a member that does not belong.
            OSError: it cannot be read.
        """
        with self._open() as (file, index):
            keys = _keys(index)
            expected = [SUMS, *(name for key in keys for name in (_cubin_name(key), _record_name(key)))]
            if not sorted(index.names) == sorted(expected) == sorted([SUMS, *index.sums]):
                odd = sorted({*index.names, *index.sums} ^ set(expected)) or ["a name twice"]
                raise _not_a_bundle(self.path, f"{odd[0]!r}, which does not belong or is missing")
            try:
                kernels = [_load(file, index, key) for key in keys]
            except CacheCorruptError as error:
                raise _not_a_bundle(self.path, error.got) from error
        return [kernel for kernel in kernels if kernel is not None]

    @contextmanager
    def _open(self) -> Iterator[tuple[int, _Index]]:
        """The file's descriptor and index; the index is read again once another file has the name."""
        file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for a writer
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise _not_a_bundle(self.path, "no regular file")
            which = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            index = self._index
            if index is None or index.file != which:
                if not self._shared:
                    require_private(self.path, any_owner=True)
                try:
                    self._index = _read_index(self.path, file, which)
                except BundleError as error:
                    if index is None:
                        raise
                    raise corrupt_error(str(error.got), "the bundle that was there before") from error
                index = self._index
            yield file, index
        finally:
            os.close(file)


def _read_index(path: Path, file: int, which: tuple[int, ...]) -> _Index:
    """The index of an open file.

    Raises:
        BundleError: it is no bundle.
    """
    try:
        with open(file, "rb", closefd=False) as stream, zipfile.ZipFile(stream) as archive:
            names = tuple(archive.namelist())
            members = {name: archive.getinfo(name) for name in names}
        return _Index(which, names, members, _parse_sums(_content(file, members, SUMS)))
    except CacheCorruptError as error:
        raise _not_a_bundle(path, error.got) from error
    except _DAMAGE as error:
        raise _not_a_bundle(path, _reason(error)) from error


def _load(file: int, index: _Index, key: str) -> CachedKernel | None:
    if _record_name(key) not in index.sums:
        return None
    record = CubinRecord.from_json(_member(file, index, _record_name(key)))
    return CachedKernel(record.check(key, _member(file, index, _cubin_name(key))), record, "bundle")


def _member(file: int, index: _Index, name: str) -> bytes:
    content = _content(file, index.members, name)
    if sha256(content).hexdigest() != index.sums.get(name):
        raise corrupt_error(f"{name} with another content", "the content that SHA256SUMS has")
    return content


def _content(file: int, members: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    """A member, which is at an offset of the file that no other reader moves.

    Raises:
        CacheCorruptError: it is missing, damaged, compressed or too large.
        OSError: the file cannot be read.
    """
    info = members.get(name)
    if info is None:
        raise corrupt_error(f"no {name}", "a whole member")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > LARGEST_MEMBER:
        raise corrupt_error(f"{name}, compressed or too large", "an uncompressed member")
    try:
        signature, lengths = _LOCAL_HEADER.unpack(os.pread(file, _LOCAL_HEADER.size, info.header_offset))
        start = info.header_offset + _LOCAL_HEADER.size + sum(struct.unpack("<HH", lengths))
        content = os.pread(file, info.file_size, start)
    except _DAMAGE as error:
        raise corrupt_error(f"{name}: {_reason(error)}", "a whole member") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # of an offset that is none
            raise
        raise corrupt_error(f"{name}: {error.strerror}", "a whole member") from error
    if signature != b"PK\x03\x04" or len(content) != info.file_size or crc32(content) != info.CRC:
        raise corrupt_error(f"{name}, cut off or with another CRC", "a whole member")
    return content


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _keys(index: _Index) -> list[str]:
    names = (name for name in index.sums if name.startswith("records/"))
    return sorted(name[len("records/") : -len(".json")] for name in names)


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
