"""What is known of a cubin without loading it, and the key under which caches keep it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from flashactor.errors import CacheCorruptError

FORMAT = 1
"""Version of the record; it enters the key, so a lookup never meets the entry of another version."""


@dataclass(frozen=True, slots=True)
class CubinRecord:
    """How a cubin was made, and what the compiler says of it.

    Attributes:
        label: what people call the kernel; it spells the specification.
        entry: the kernel's name in the cubin.
        source: the file that it was compiled from, relative to the sources' root.
        arch: NVRTC's name of the architecture, such as ``sm_90a``.
        nvrtc_version: the compiler.
        options: the compiler's options.
        source_digest: SHA-256 of the translation unit.
        sha256: of the cubin.
        size: of the cubin in bytes.
        registers: registers of a thread.
        shared_bytes: static shared memory of a thread block.
        spill_bytes: bytes of spill stores and loads in the code.
        stack_bytes: stack frame of a thread.
        log: warnings of the compiler and of ptxas, "" when there is none.
        compile_seconds: wall-clock time in NVRTC; 0 of a kernel that came in a bundle.
        created: when it was stored, ISO 8601 in UTC; "" in a bundle.
    """

    label: str
    entry: str
    source: str
    arch: str
    nvrtc_version: str
    options: tuple[str, ...]
    source_digest: str
    sha256: str
    size: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int
    log: str
    compile_seconds: float
    created: str

    @property
    def key(self) -> str:
        """The cache key that this record belongs to."""
        return cache_key(self.source_digest, self.options, self.nvrtc_version)

    def to_json(self) -> str:
        """The record as a JSON object, one field a line."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> CubinRecord:
        """The record that ``to_json`` wrote.

        Raises:
            CacheCorruptError: the text is no record.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if not isinstance(values["options"], list):
                raise TypeError("options are no list")
            record = cls(**{**values, "options": tuple(values["options"])})
            wrong = [f.name for f in fields(cls) if not _is_sound(f.type, getattr(record, f.name))]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise corrupt_error(f"{type(error).__name__}: {error}", "a record of a cubin") from error
        if wrong:
            raise corrupt_error(f"a wrong {wrong[0]}", "a record of a cubin")
        return record

    def without_history(self) -> CubinRecord:
        """The record with nothing that differs between two machines which made the same cubin."""
        return replace(self, compile_seconds=0.0, created="")

    def check(self, key: str, cubin: bytes | None) -> bytes:
        """The cubin, if it is the one that the record of a key describes.

        Raises:
            CacheCorruptError: it is not.
        """
        if self.key != key:
            raise corrupt_error(f"the record of {self.key}", f"the record of {key}")
        if cubin is None:
            raise corrupt_error("no cubin", f"{self.size} bytes")
        if len(cubin) != self.size or sha256(cubin).hexdigest() != self.sha256:
            raise corrupt_error(
                f"{len(cubin)} bytes of another content", f"the {self.size} bytes of the record"
            )
        return cubin


@dataclass(frozen=True, slots=True)
class CachedKernel:
    """A cubin, its record, and where this cubin came from just now."""

    cubin: bytes
    record: CubinRecord
    source: Literal["compiled", "disk", "bundle", "memory"]


def _is_sound(field_type: object, value: object) -> bool:
    """Whether a field holds what this program writes; what others wrote would be printed and summed up."""
    match value:
        case str():
            return field_type == "str" and _is_text(value)
        case int() if not isinstance(value, bool):
            return field_type == "int" and 0 <= value < 1 << 63
        case float():
            return field_type == "float" and 0.0 <= value < math.inf
        case tuple():
            return all(isinstance(option, str) and _is_text(option) for option in value)
    return False


def _is_text(value: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in value)


def cache_key(digest: str, compiler_options: tuple[str, ...], version: str) -> str:
    """SHA-256 over the source's digest, options and compiler, in hexadecimal: no path, no machine."""
    return sha256(json.dumps([FORMAT, digest, compiler_options, version]).encode()).hexdigest()


def now() -> str:
    """This moment as records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def corrupt_error(got: str, expected: str) -> CacheCorruptError:
    """The error of an entry that is not what was stored."""
    return CacheCorruptError(
        field="cache entry", got=got, expected=expected, remedy="none is needed: the kernel is compiled again"
    )
