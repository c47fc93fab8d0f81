"""How much a plain installation of flashactor puts on the disk, NVRTC included.

    python -m benchmarks.install_size        # writes benchmarks/results/install_size.{json,md}

Installs the checkout with its dependencies into a temporary virtual environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import write

ROOT = Path(__file__).resolve().parent.parent
MEBIBYTE = 2**20
GOAL_MIB = 350


def bytes_under(folder: Path) -> int:
    """Size of all regular files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    """Install, measure, print and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        # What the virtual environment itself brings (pip, setuptools) is not the project's.
        before = bytes_under(packages)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, str(ROOT)], check=True)
        total = bytes_under(packages) - before
        parts = {
            entry.name: bytes_under(entry)
            for entry in sorted(packages.iterdir())
            if entry.is_dir() and not entry.name.startswith(("pip", "setuptools", "pkg_resources"))
        }
    largest = sorted(parts.items(), key=lambda part: -part[1])[:6]
    rows = [("installed size of the core", f"{total / MEBIBYTE:.0f} MiB", f"{GOAL_MIB} MiB")]
    rows += [(f"of it {name}", f"{size / MEBIBYTE:.0f} MiB", "") for name, size in largest]
    print(write("install_size", {"bytes": total, "parts": parts}, rows).read_text())


if __name__ == "__main__":
    main()
