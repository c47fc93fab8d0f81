"""The keys that an application used, one JSON object a line: tomorrow's list of kernels to warm.

Each new key is written once, whichever process sees it first. docs/cache.md has the fields.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any, BinaryIO

from flashactor.errors import FlashAttnError, RequestError
from flashactor.executors.base import Work
from flashactor.requests import AttentionRequest
from flashactor.requests.bare import REQUEST_TYPES, bare_request
from flashactor.types import DType, MaskKind, PositionBias, SmArch

log = logging.getLogger("flashactor.trace")

LOCK_SECONDS, CLOSING_SECONDS = 0.02, 2.0
"""How long to wait for another process that writes, at a key and at the end; a line takes a millisecond."""

# Fields of some lines that bare_request takes under the same name.
_AS_THEY_ARE = ("head_dim_v", "batch_invariant", "guard", "varlen", "paged", "deterministic")
# Kernels are chosen by whether there is a cap or dropout, not by how much.
_SOME_SOFTCAP, _SOME_DROPOUT = 1.0, 0.5


class KeyTrace:
    """Writes each new key to a file that processes share. Recording never fails a request."""

    def __init__(self, path: Path, arch: SmArch | None = None) -> None:
        """Nothing is opened yet.

        Args:
            path: the file; it is created with the first key.
            arch: architecture of the device, for requests that name none.
        """
        self._path = path
        self.arch = arch
        self._lock = threading.Lock()
        self._seen: set[Hashable] = set()
        self._lines: set[str] = set()
        self._pending: dict[str, None] = {}
        self._offset = 0
        self._failed = False

    def record(self, work: Work) -> None:
        """Write the work's key, unless it is in the file. A file that cannot be written costs one warning."""
        identity = _identity(work)
        if identity in self._seen or self._failed:
            return
        with self._lock:
            self._seen.add(identity)
            self._pending[_line(work, work.request.arch or self.arch)] = None
            self._write(LOCK_SECONDS)

    def close(self) -> None:
        """Write what could not be written yet because another process was writing."""
        with self._lock:
            if self._pending and not self._failed:
                self._write(CLOSING_SECONDS)

    def _write(self, patience: float) -> None:
        from filelock import FileLock, Timeout

        try:
            if self._path.exists() and not self._path.is_file():
                raise OSError(f"{self._path} is no regular file")
            with FileLock(f"{self._path}.lock", timeout=patience), open(self._path, "a+b") as file:
                self._append(file)
        except Timeout:
            log.debug("another process writes %s; the next key tries again", self._path)
        except (OSError, ValueError) as error:
            self._failed = True
            log.warning("keys are not traced: %s cannot be written: %s", self._path, error)

    def _append(self, file: BinaryIO) -> None:
        file.seek(self._offset)
        whole, _, rest = file.read().rpartition(b"\n")
        self._lines.update(whole.decode(errors="replace").splitlines())
        end = file.tell() - len(rest)
        if rest:  # a writer was killed within its line
            if not rest.startswith(b"{"):
                raise ValueError("its last line is no key, and has no end")
            file.truncate(end)
        new = [line for line in self._pending if line not in self._lines]
        file.write("".join(f"{line}\n" for line in new).encode())
        file.flush()
        self._offset = file.seek(0, os.SEEK_END)
        self._lines.update(new)
        self._pending.clear()


def read_trace(path: Path) -> list[AttentionRequest]:
    """The bare requests of a trace, each once; a last line that its writer could not finish is left out.

    A request has no ``arch`` where the application had no device.

    Raises:
        RequestError: a line is no key, with its number.
        OSError: the file cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()
    requests: dict[str, AttentionRequest] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line in requests:
            continue
        try:
            requests[line] = _request(json.loads(line))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
            FlashAttnError,
        ) as error:
            raise RequestError(
                field="trace",
                got=f"{path}:{number}: {type(error).__name__}: {error}",
                expected="a line that FLASHACTOR_TRACE_KEYS wrote",
                remedy="remove the line, or record the trace again",
            ) from error
    return list(requests.values())


def _identity(work: Work) -> Hashable:
    request = work.request
    return (
        type(request),
        request.arch is None,
        work.key,
        *_own_fields(request).values(),
        bool(request.softcap),
        bool(request.dropout_p),
        _has_sink_logits(request),
        request.implementation,
    )


def _line(work: Work, arch: SmArch | None) -> str:
    request, key = work.request, work.key
    return json.dumps(
        {
            "request": type(request).__name__,
            "arch": arch and arch.target,
            "dtype": key.dtype.tag,
            "kv_dtype": None,
            "head_dim": key.head_dim,
            "gqa_ratio": key.gqa_ratio,
            "causal": key.causal,
            "sliding_window": key.sliding_window,
            "sink_tokens": key.sink,
            "sink_logits": _has_sink_logits(request),
            "alibi": key.alibi,
            "softcap": bool(request.softcap),
            "dropout": bool(request.dropout_p),
            "implementation": request.implementation,
            "kernel_name": work.kernel_name,
            **{name: value for name, value in _own_fields(request).items() if value is not None},
        }
    )


def _own_fields(request: AttentionRequest) -> dict[str, Any]:
    """The fields outside of the key by which a kernel is chosen; None where a line leaves one out.

    They are left out where they say nothing, so that a line is the same as before there was the field.
    """
    kv_dtype: DType | None = getattr(request, "kv_dtype", None)
    v_dtype: DType | None = getattr(request, "v_dtype", None)
    out_dtype: DType | None = getattr(request, "out_dtype", None)
    of_cache = kv_dtype is request.dtype and v_dtype is None
    return {
        "kv_dtype": None if kv_dtype is None or of_cache else kv_dtype.tag,
        "v_dtype": None if v_dtype is None or v_dtype is kv_dtype else v_dtype.tag,
        "out_dtype": None if out_dtype in (None, DType.BF16) else out_dtype.tag,
        "head_dim_v": None if request.head_dim_v == request.head_dim else request.head_dim_v,
        "window_right": request.mask.right,
        "batch_invariant": request.batch_invariant or None,
        "guard": getattr(request, "guard", False) or None,
        "varlen": (request.varlen and not request.VARLEN) or None,
        "paged": (request.paged and request.VARLEN) or None,
        "deterministic": None if getattr(request, "deterministic", True) else False,
    }


def _request(fields: dict[str, Any]) -> AttentionRequest:
    answers = {"deterministic": True, **fields}
    for name in ("causal", "alibi", "softcap", "dropout", "sink_logits", "deterministic"):
        if not isinstance(answers[name], bool):
            raise TypeError(f"{name} is {answers[name]!r}, neither true nor false")
    options: dict[str, Any] = {
        "arch": None if fields["arch"] is None else SmArch.parse(fields["arch"]),
        "dtype": DType.parse(fields["dtype"]),
        "head_dim": fields["head_dim"],
        "gqa_ratio": fields["gqa_ratio"],
        "mask": MaskKind(fields["causal"], fields["sliding_window"], fields.get("window_right")),
        "bias": PositionBias.ALIBI if fields["alibi"] else PositionBias.NONE,
        "sink_tokens": fields["sink_tokens"],
        "sink_logits": bool(fields["sink_logits"]),
        "softcap": _SOME_SOFTCAP if fields["softcap"] else 0.0,
        "dropout_p": _SOME_DROPOUT if fields["dropout"] else 0.0,
        "implementation": fields["implementation"],
    }
    for name in ("kv_dtype", "v_dtype", "out_dtype"):
        if fields.get(name) is not None:
            options[name] = DType.parse(fields[name])
    options |= {name: fields[name] for name in _AS_THEY_ARE if name in fields}
    return bare_request(REQUEST_TYPES[fields["request"]], **options)


def _has_sink_logits(request: AttentionRequest) -> bool:
    return request.operands is not None and request.operands.sink_logits is not None
