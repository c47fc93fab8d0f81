"""A kernel's source as one string, so that neither NVRTC nor the cache key sees a path of this machine."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from flashactor.errors import CompileError
from flashactor.settings import PACKAGE_ROOT

_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')
_PRAGMA_ONCE = re.compile(r"\s*#\s*pragma\s+once\b")


def sources_root() -> Path:
    """The folder of the CUDA sources: beside the package in a checkout, inside it when installed.

    Raises:
        CompileError: there is none, so the installation is incomplete.
    """
    for root in (PACKAGE_ROOT / "kernels_cu", PACKAGE_ROOT.parent / "kernels_cu"):
        if root.is_dir():
            return root
    raise CompileError(
        field="kernels_cu",
        got="no such folder in the package or beside it",
        expected="the CUDA sources that flashactor is installed with",
        remedy="install flashactor again",
    )


def translation_unit(source: str, root: Path | None = None) -> str:
    """The text of ``source`` with every ``#include "..."`` in its place, each file once.

    Names, in includes and in the ``#line`` marks, are relative to the sources' root. Texts are kept for the
    life of the process: an edited source needs a new one.

    Args:
        source: the file to compile, such as ``sm80/fwd.cu``.
        root: the folder that the names are relative to (default: ``sources_root()``).

    Raises:
        CompileError: a file is missing, or includes itself.
    """
    return _resolved(source, root or sources_root())[0]


def source_digest(source: str, root: Path | None = None) -> str:
    """SHA-256 of the translation unit, in hexadecimal."""
    return _resolved(source, root or sources_root())[1]


@lru_cache(maxsize=64)
def _resolved(source: str, root: Path) -> tuple[str, str]:
    lines: list[str] = []
    _append(source, root, lines, seen=set(), chain=(), included_at=source)
    text = "\n".join(lines) + "\n"
    return text, sha256(text.encode()).hexdigest()


def _append(
    name: str, root: Path, lines: list[str], *, seen: set[str], chain: tuple[str, ...], included_at: str
) -> None:
    if name in chain:
        cycle = " -> ".join((*chain[chain.index(name) :], name))
        _refuse(included_at, f"an include cycle: {cycle}", "files that do not include themselves")
    if name in seen:
        return
    seen.add(name)
    try:
        text = (root / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _refuse(included_at, f'"{name}", which cannot be read ({type(error).__name__})', "an existing file")
    lines.append(f'#line 1 "{name}"')
    for number, line in enumerate(text.splitlines(), start=1):
        if include := _INCLUDE.match(line):
            at = f"{name}({number})"
            _append(include[1], root, lines, seen=seen, chain=(*chain, name), included_at=at)
            lines.append(f'#line {number + 1} "{name}"')
        else:
            # NVRTC sees one file, in which the pragma would earn a warning.
            lines.append("" if _PRAGMA_ONCE.match(line) else line)


def _refuse(source_line: str, got: str, expected: str) -> NoReturn:
    raise CompileError(
        field="kernel source",
        got=f"{source_line}: {got}",
        expected=expected,
        remedy="name includes relative to kernels_cu, or install flashactor again if a file is gone",
        source_line=source_line,
    )
