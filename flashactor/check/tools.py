"""NVIDIA's tools that read a cubin: where they are, and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from flashactor.errors import CompileError, DeviceUnavailableError

INSTALL = "pip install nvidia-cuda-nvdisasm nvidia-cuda-cuobjdump, which are the extra 'check'"

PACKAGES = {"nvdisasm": "nvidia-cuda-nvdisasm", "cuobjdump": "nvidia-cuda-cuobjdump"}
"""The wheel that each tool comes in."""

SECONDS = 60.0
"""When a tool counts as hung; on one busy core the slowest kernel here takes half a second."""


@cache
def find_tool(name: str) -> Path:
    """The tool from its wheel, else from PATH; the wheel's is the one that fits the NVRTC beside it.

    Raises:
        DeviceUnavailableError: it is in neither.
    """
    if (packaged := _in_wheel(name)) is not None:
        return packaged
    if (found := shutil.which(name)) is not None:
        return Path(found)
    raise DeviceUnavailableError(
        field=name,
        got=f"neither the package {PACKAGES[name]} nor an executable on PATH",
        expected="the tool of the CUDA toolkit that reads cubins",
        remedy=INSTALL,
    )


def read_cubin(tool: str, arguments: tuple[str, ...], cubin: bytes, *, timeout: float = SECONDS) -> str:
    """What a tool prints of a cubin.

    Raises:
        DeviceUnavailableError: the tool is not there, or cannot be run.
        CompileError: the tool cannot read this cubin, or takes longer than ``timeout`` seconds.
    """
    path = find_tool(tool)
    # A file in memory: nothing is left on disk, even if this process is killed.
    descriptor = os.memfd_create("cubin")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(cubin)
        done = subprocess.run(
            [path, *arguments, f"/proc/self/fd/{descriptor}"],
            pass_fds=(descriptor,),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unreadable(tool, f"no answer in {timeout:g} s") from error
    except OSError as error:
        raise DeviceUnavailableError(
            field=tool,
            got=f"{path}, which does not run: {error.strerror}",
            expected="an executable for this machine",
            remedy="pip install --force-reinstall " + PACKAGES[tool],
        ) from error
    finally:
        os.close(descriptor)
    if done.returncode:
        raise _unreadable(tool, f"exit code {done.returncode}", (done.stderr or done.stdout).strip())
    return done.stdout


def _in_wheel(name: str) -> Path | None:
    try:
        listed = files(PACKAGES[name]) or []
    except PackageNotFoundError:
        return None
    for entry in listed:
        path = Path(str(entry.locate()))
        if entry.name == name and os.access(path, os.X_OK):
            return path
    return None


def _unreadable(tool: str, what: str, log: str = "") -> CompileError:
    first = log.partition("\n")[0]
    return CompileError(
        field="cubin",
        got=f"{what} from {tool}" + (f": {first}" if first else ""),
        expected=f"a cubin that {tool} reads",
        remedy="update NVRTC and the tool together: one that is older does not know newer architectures",
        log=log,
    )
