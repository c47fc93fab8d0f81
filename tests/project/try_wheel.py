"""Try a wheel away from the sources: install it into a fresh environment, then compute and compile with it.

python tests/project/try_wheel.py dist     # after `python -m build --wheel`; `make wheel` does both
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROGRAM = """
import flashactor, numpy as np, tempfile
from pathlib import Path
from flashactor import *
from flashactor.cache import CubinCache
from flashactor.settings import default_cache_dir
assert "site-packages" in flashactor.__file__, flashactor.__file__
assert "site-packages" not in str(default_cache_dir()), default_cache_dir()
q = np.ones((1, 8, 2, 64), np.float16)
request = Fa2FwdRequest.from_arrays(q, q, q, mask=MaskKind.causal())
with FlashAttnActor.start(executor="reference") as actor:
    assert (actor.ask(FlashAttnMsg.forward(request)).result(10).out == 1).all()
(spec,) = explain(request, SmArch.SM90A).chosen.kernels
with tempfile.TemporaryDirectory() as folder:
    kernel = CubinCache(Path(folder)).get_or_compile(spec)
print("wheel works:", spec.label, len(kernel.cubin), "bytes")
"""


def main(dist: str) -> None:
    """Install the newest wheel of a folder into a new environment and run PROGRAM there."""
    wheel = max(Path(dist).glob("*.whl"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)], check=True
        )
        subprocess.run([python, "-c", PROGRAM], check=True, cwd=folder)
        subprocess.run([f"{folder}/bin/flashactor", "--version"], check=True, cwd=folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
