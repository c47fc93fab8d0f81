"""The real cuda packages on a machine that shows no device, as CI's is."""

import os
import subprocess
import sys

HIDDEN = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "FLASHACTOR_EXECUTOR": ""}


def without_devices(program):
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=HIDDEN, check=True
    )
    return run.stdout.strip()


def test_there_is_no_device():
    assert without_devices("from flashactor.executors.cuda import *; print(device_count())") == "0"


def test_the_cuda_executor_is_unavailable_and_says_what_to_do():
    program = (
        "from flashactor import FlashAttnActor\n"
        "from flashactor.errors import DeviceUnavailableError\n"
        "try:\n"
        "    FlashAttnActor.start(executor='cuda')\n"
        "except DeviceUnavailableError as error:\n"
        "    print(error)\n"
    )
    message = without_devices(program)
    assert "NVIDIA" in message
    assert "executor='reference'" in message
    assert "nvidia-smi" in message


def test_auto_is_reference():
    program = (
        "from flashactor import FlashAttnActor\n"
        "with FlashAttnActor.start(executor='auto') as actor:\n"
        "    print(actor.executor_name)\n"
    )
    assert without_devices(program) == "reference"


def test_the_module_loads_neither_cuda_nor_numpy():
    program = (
        "import sys\n"
        "import flashactor.executors.cuda\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'cuda', 'numpy', 'torch', 'cupy'}))\n"
    )
    assert without_devices(program) == "[]"
