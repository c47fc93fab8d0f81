"""cuda.core's modules import each other; many threads at once must not see half of one."""

import subprocess
import sys

PROGRAM = """
import threading
from concurrent.futures import ThreadPoolExecutor
from flashactor import DType, SmArch
from flashactor.compiler.nvrtc import nvrtc_version, program_options
from flashactor.kernels.sm80 import forward_spec

spec = forward_spec(SmArch.SM80, DType.BF16, 32)
start = threading.Barrier(8)

def load(_):
    start.wait()
    nvrtc_version()
    program_options(spec)
    from cuda.core import Program
    from cuda.core.utils import FileStreamProgramCache
    return True

with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(load, range(8)))
"""


def test_first_use_from_many_threads_at_once():
    for _ in range(5):
        run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
