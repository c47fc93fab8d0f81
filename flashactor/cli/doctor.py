"""``flashactor doctor``: what works on this machine, and what to install for what does not."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import flashactor
from flashactor.check.tools import INSTALL, PACKAGES, find_tool
from flashactor.cli.output import amount, counted, print_json, print_table
from flashactor.errors import FlashAttnError
from flashactor.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        works: whether it does.
        essential: whether flashactor is of no use here without it.
        detail: what was found.
        remedy: what to do if it does not work.
    """

    what: str
    works: bool
    essential: bool
    detail: str
    remedy: str = ""


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "doctor",
        help="check driver, NVRTC, cache, device and extras",
        description="Say what works on this machine, and what to install for what does not. Exit code 1 if "
        "something essential (the compiler, the cache folder, the reference) does not work.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at everything, then print."""
    findings = examine(Settings.from_environment())
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ("", "what", "found", "what to do"),
            [("ok" if f.works else "--", f.what, f.detail, "" if f.works else f.remedy) for f in findings],
        )
    return 0 if all(finding.works for finding in findings if finding.essential) else 1


def examine(settings: Settings) -> list[Finding]:
    """Every finding, the essential ones first."""
    return [
        Finding("flashactor", True, True, f"{flashactor.__version__} on Python {platform.python_version()}"),
        _tried("NVRTC compiles", True, _nvrtc, "pip install nvidia-cuda-nvrtc"),
        _tried("cache folder", True, lambda: _cache_folder(settings), "set FLASHACTOR_CACHE_DIR"),
        _tried("reference executor", True, _reference, "report this as a bug"),
        _tried("CUDA device", False, _device, "install an NVIDIA driver; kernels compile without one"),
        _package("torch", "torch arrays", "pip install 'flashactor[torch]'"),
        _package("cupy-cuda13x", "cupy arrays", "pip install 'flashactor[cupy]'"),
        _tried("flashactor check", False, _cubin_tools, INSTALL),
    ]


def _tried(what: str, essential: bool, check: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(what, True, essential, check())
    except FlashAttnError as error:
        return Finding(what, False, essential, " ".join(str(error.got).split()), error.remedy)
    except (OSError, ImportError) as error:
        return Finding(what, False, essential, " ".join(str(error).split()), remedy)


def _nvrtc() -> str:
    from flashactor.compiler.nvrtc import compile_cubin, nvrtc_version
    from flashactor.kernels.sm80 import forward_spec
    from flashactor.types import DType, SmArch

    kernel = compile_cubin(forward_spec(SmArch.SM80, DType.BF16, 32))
    return f"NVRTC {nvrtc_version()} compiled a kernel in {kernel.compile_seconds:.2f} s"


def _cache_folder(settings: Settings) -> str:
    from flashactor.cache import CubinCache

    cache = CubinCache.from_settings(settings)
    cache.folder.create()
    with tempfile.NamedTemporaryFile(dir=cache.path):
        pass
    records = cache.records()
    size = sum(record.size for record in records)
    bundles = "".join(f"; {bundle.path}: {counted(len(bundle.list_keys()))}" for bundle in cache.bundles)
    return f"{cache.path}: {counted(len(records))}, {amount(size)}{bundles}"


def _reference() -> str:
    import numpy as np

    from flashactor.actor.messages import FlashAttnMsg
    from flashactor.requests import Fa2FwdRequest
    from flashactor.service import FlashAttnActor

    ones = np.ones((1, 4, 1, 8), np.float16)
    with FlashAttnActor.start(executor="reference") as actor:
        reply = actor.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(ones, ones, ones))).result(10)
    return f"computed {reply.kernel_name} in {reply.timings.total * 1e3:.1f} ms on {os.cpu_count()} cores"


def _device() -> str:
    from flashactor.executors.cuda import device_arch, device_count

    count = device_count()
    # device_arch raises DeviceUnavailableError, with the reason, where there is none.
    return f"{counted(max(count, 1), 'device')}, the first is {device_arch().target}"


def _cubin_tools() -> str:
    return ", ".join(f"{tool} in {find_tool(tool).parent}" for tool in PACKAGES)


def _package(name: str, purpose: str, remedy: str) -> Finding:
    try:
        return Finding(purpose, True, False, f"{name} {version(name)}")
    except PackageNotFoundError:
        return Finding(purpose, False, False, f"{name} is not installed", remedy)
