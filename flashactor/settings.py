"""What the environment says, read in one place and frozen.

========================== ================================================== ==========================
variable                   meaning                                            default
========================== ================================================== ==========================
FLASHACTOR_CACHE_DIR       folder of the cubin cache                          ``cubin_cache/`` of a checkout,
                                                                              else the user's cache folder
FLASHACTOR_CACHE_BUNDLES   bundles, searched after it: files or folders,      none
                           separated as in PATH
FLASHACTOR_CACHE_MAX_BYTES most bytes of cubins in it, such as ``500M``       unlimited
FLASHACTOR_CACHE_SHARED    1: take it even if others may write it             0
FLASHACTOR_NO_COMPILE      1: a kernel that is not cached is an error         0
FLASHACTOR_TRACE_KEYS      file that gets each new dispatch key as a line     none
FLASHACTOR_EXECUTOR        executor that ``auto`` stands for                  ``cuda`` with a device,
                                                                              else ``reference``
FLASHACTOR_LOG_LEVEL       least level that ``telemetry.logging.configure``   ``warning``
                           shows
FLASHACTOR_METRICS_PORT    the first actor serves Prometheus metrics on this  none
                           port of 127.0.0.1; 0: any that is free
FLASHACTOR_MONITOR         1: ``flashactor top`` of the same user sees the    0
                           actors of the process
========================== ================================================== ==========================
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashactor.errors import SettingsError

PACKAGE_ROOT = Path(__file__).resolve().parent
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that may differ between two runs of the same code."""

    cache_dir: Path
    executor: str = "auto"
    log_level: str = "warning"
    cache_bundles: tuple[Path, ...] = ()
    cache_max_bytes: int | None = None
    cache_shared: bool = False
    no_compile: bool = False
    trace_keys: Path | None = None
    metrics_port: int | None = None
    monitor: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in ``environ`` (default: ``os.environ``); an empty value counts as unset.

        Raises:
            SettingsError: a size, a port or a switch is none.
        """
        env = os.environ if environ is None else environ
        chosen_dir = env.get("FLASHACTOR_CACHE_DIR")
        bundles = env.get("FLASHACTOR_CACHE_BUNDLES") or ""
        trace = env.get("FLASHACTOR_TRACE_KEYS")
        return cls(
            cache_dir=_path("FLASHACTOR_CACHE_DIR", chosen_dir) if chosen_dir else default_cache_dir(),
            executor=env.get("FLASHACTOR_EXECUTOR") or "auto",
            log_level=env.get("FLASHACTOR_LOG_LEVEL") or "warning",
            cache_bundles=tuple(
                _path("FLASHACTOR_CACHE_BUNDLES", bundle) for bundle in bundles.split(os.pathsep) if bundle
            ),
            cache_max_bytes=_size("FLASHACTOR_CACHE_MAX_BYTES", env.get("FLASHACTOR_CACHE_MAX_BYTES") or ""),
            cache_shared=_switch("FLASHACTOR_CACHE_SHARED", env.get("FLASHACTOR_CACHE_SHARED") or ""),
            no_compile=_switch("FLASHACTOR_NO_COMPILE", env.get("FLASHACTOR_NO_COMPILE") or ""),
            trace_keys=_path("FLASHACTOR_TRACE_KEYS", trace) if trace else None,
            metrics_port=_port("FLASHACTOR_METRICS_PORT", env.get("FLASHACTOR_METRICS_PORT") or ""),
            monitor=_switch("FLASHACTOR_MONITOR", env.get("FLASHACTOR_MONITOR") or ""),
        )


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int | None:
    """Bytes of a size such as ``1000000``, ``500M`` or ``2 GiB`` (K, M and G are powers of 1024), or None."""
    found = re.fullmatch(r"\s*(\d{1,18})\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    return int(found[1]) * _UNITS[found[2].upper()] if found else None


def _size(name: str, text: str) -> int | None:
    size = parse_size(text)
    if size is None and text:
        raise SettingsError(
            name, repr(text), "a number of bytes, such as 500000000 or 500M", f"correct {name}"
        )
    return size


def _port(name: str, text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\s*\d{1,5}\s*", text, re.ASCII) or int(text) > LAST_PORT:
        raise SettingsError(name, repr(text), f"a port from 0 to {LAST_PORT}", f"correct {name}")
    return int(text)


def _switch(name: str, text: str) -> bool:
    chosen = {"": False, "0": False, "1": True, "false": False, "true": True}.get(text.strip().lower())
    if chosen is None:
        raise SettingsError(name, repr(text), "0 or 1", f"correct {name}")
    return chosen


def _path(name: str, text: str) -> Path:
    """An absolute path: a process that changes its folder must not change its cache."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~nobody/cache
        raise SettingsError(name, repr(text), "a path", f"correct {name}") from error


def compiler_variables() -> tuple[str, ...]:
    """What the environment says to NVRTC itself and changes the code that it makes."""
    return tuple(f"{name}={value}" for name in ("NV_NVVM_VERSION",) if (value := os.environ.get(name)))


def default_cache_dir() -> Path:
    """The folder that holds cubins when nobody chose one; it is not created here."""
    checkout = PACKAGE_ROOT.parent
    if (checkout / "kernels_cu").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "cubin_cache"
    import platformdirs

    return platformdirs.user_cache_path("flashactor", appauthor=False)


def runtime_dir() -> Path:
    """The folder of this user's sockets, the same for all of the user's processes; it is not created here."""
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and os.path.isabs(session) and os.access(session, os.W_OK | os.X_OK):
        return Path(session) / "flashactor"
    return Path(f"/tmp/flashactor-{os.geteuid()}")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let processes that start meanwhile multiply matrices on one core each, unless the user set it."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
