"""What the environment says, read in one place and frozen.

================== ========================================================== ==========================
variable           meaning                                                    default
================== ========================================================== ==========================
FLASHACTOR_CACHE_DIR  folder of the cubin cache                               ``cubin_cache/`` of a checkout,
                                                                              else the user's cache folder
FLASHACTOR_EXECUTOR   executor that ``auto`` stands for                       ``cuda`` with a device,
                                                                              else ``reference``
FLASHACTOR_LOG_LEVEL  least level that ``telemetry.logging.configure`` shows  ``warning``
================== ========================================================== ==========================
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that may differ between two runs of the same code."""

    cache_dir: Path
    executor: str = "auto"
    log_level: str = "warning"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in ``environ`` (default: ``os.environ``); an empty value counts as unset."""
        env = os.environ if environ is None else environ
        chosen_dir = env.get("FLASHACTOR_CACHE_DIR")
        return cls(
            cache_dir=Path(chosen_dir).expanduser() if chosen_dir else default_cache_dir(),
            executor=env.get("FLASHACTOR_EXECUTOR") or "auto",
            log_level=env.get("FLASHACTOR_LOG_LEVEL") or "warning",
        )


def default_cache_dir() -> Path:
    """The folder that holds cubins when nobody chose one; it is not created here."""
    checkout = PACKAGE_ROOT.parent
    if (checkout / "kernels_cu").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "cubin_cache"
    import platformdirs

    return platformdirs.user_cache_path("flashactor", appauthor=False)


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
