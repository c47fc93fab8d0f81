"""Importing the package starts nothing and loads nothing that it does not need."""

import json
import subprocess
import sys


def loaded_after(statement):
    report = "print(json.dumps([sorted(sys.modules), threading.active_count()]))"
    program = f"import json, sys, threading\n{statement}\n{report}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules, threads = json.loads(run.stdout)
    return {name.partition(".")[0] for name in modules}, threads


def test_importing_loads_neither_cuda_nor_array_nor_cli_libraries():
    loaded, threads = loaded_after("import flashactor")
    assert not loaded & {
        "cuda",
        "numpy",
        "ml_dtypes",
        "torch",
        "cupy",
        "jax",
        "rich",
        "structlog",
        "safetensors",
    }
    assert threads == 1


def test_planning_and_mocking_need_no_array_library():
    loaded, _ = loaded_after(
        "from flashactor import *\n"
        "with FlashAttnActor.start(executor='mock') as actor:\n"
        "    actor.ask(FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, 64)))\n"
    )
    assert not loaded & {"cuda", "numpy", "torch"}


def test_importing_reads_no_environment():
    program = (
        "import os\n"
        "class Watched(dict):\n"
        "    def get(self, key, default=None):\n"
        "        assert not str(key).startswith('FLASHACTOR'), key\n"
        "        return super().get(key, default)\n"
        "    __getitem__ = None\n"
        "os.environ = Watched(os.environ)\n"
        "import flashactor\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
