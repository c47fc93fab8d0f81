"""What the cubin cache costs and saves: hits, warming, many processes at once, and peers' caches beside it.

    python -m benchmarks.cubin_cache [--triton PYTHON] [--fa4 PYTHON]
    # writes benchmarks/results/cubin_cache.{json,md}

PYTHON is the interpreter of an environment that has what a module of ``benchmarks/peer_caches/`` says it
needs. Every command is measured whole, from the start of its process, its children's processor time too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.cold_start import first_kernel, medians
from benchmarks.report import median, write
from flashactor.cache import CubinCache
from flashactor.cache.folder import CubinFolder
from flashactor.cache.record import cache_key
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.spec import DTYPES
from flashactor.types import DType, SmArch

LARGE_CUBIN_BYTES = 100 * 1000
ROOT = Path(__file__).resolve().parents[1]
# What all of us have kernels for: these head dims, f16 and bf16, causal and not, on two architectures.
PEER_HEAD_DIMS, PEER_ARCHS, PEER_KERNELS = (32, 64, 128), (SmArch.SM80, SmArch.SM90A), 24
WARMED = ("--arch", "sm_90a", "--dtype", "bf16")
NOTES = """Everything is measured from the start of the process, imports included, one run each after an
uncounted one of two kernels. Half of the peers' kernels are causal; ours take the mask as a parameter, so
12 compute the same. Cold: an empty cache folder. All from the cache: a new process gets all of them.
First kernel: ours is a process of its own that asks for one kernel, the peers' is the first of their run.
Triton's cache holds every intermediate form, FlashAttention-4's object files, ours cubins and records.
Compare rows of one run only: the machine is shared, and its speed changes."""
CROWD = 64

MEMORY_GOAL, DISK_GOAL, START_GOAL = "5 us", "1 ms", "0.4 s"
EFFICIENCY_GOAL, CPU_GOAL, CROWD_GOAL = "0.9", "0.35 s", "1.5 x the compile + 1 s"

# Loads what a kernel needs but the kernel, says so, and asks when it is told to.
MEMBER = """
import sys
from pathlib import Path
from time import perf_counter
from flashactor.cache import CubinCache
from flashactor.kernels.sm80 import forward_spec
from flashactor.types import DType, SmArch
spec = forward_spec(SmArch.SM80, DType.BF16, 128)
cache = CubinCache(Path(sys.argv[1]))
cache.key(spec)
print("ready", flush=True)
sys.stdin.readline()
kernel = cache.get_or_compile(spec)
print(perf_counter(), cache.counts().compiled, kernel.record.compile_seconds, kernel.record.sha256)
"""


class Cost(NamedTuple):
    """What a command took, in seconds: on the clock, and of all processors."""

    wall: float
    cpu: float


def cost(command: Sequence[str], cache_dir: Path) -> tuple[Cost, str]:
    """Run a command with a cache folder; what it took, and what it printed."""
    environment = {**os.environ, "FLASHACTOR_CACHE_DIR": str(cache_dir)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # Python keeps the bytecode of imports, for all of us
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    wall, after = perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def memory_hit(cache_dir: Path) -> float:
    """Seconds to get a kernel that is in memory; the median of many rounds."""
    cache, spec = CubinCache(cache_dir), forward_spec(SmArch.SM80, DType.BF16, 128)
    cache.get_or_compile(spec)
    rounds, calls = [], 2000
    for _ in range(25):
        start = perf_counter()
        for _ in range(calls):
            cache.get_or_compile(spec)
        rounds.append((perf_counter() - start) / calls)
    return median(rounds)


def disk_hit(cache_dir: Path) -> tuple[float, float]:
    """Seconds to load and verify a large entry: in a folder just opened, and after that."""
    kernel = CubinCache(cache_dir).get_or_compile(forward_spec(SmArch.SM80, DType.BF16, 128))
    cubin = os.urandom(LARGE_CUBIN_BYTES)
    record = replace(kernel.record, source_digest="0" * 64, size=len(cubin), sha256=sha256(cubin).hexdigest())
    key = cache_key(record.source_digest, record.options, record.nvrtc_version)
    CubinFolder(cache_dir).store(record, cubin)
    opening: list[float] = []
    loading: list[float] = []
    for _ in range(200):
        folder = CubinFolder(cache_dir)
        for samples in (opening, loading):
            start = perf_counter()
            if folder.load(key) is None:
                raise RuntimeError("the entry is gone")
            samples.append(perf_counter() - start)
    return median(opening), median(loading)


def process_start(cache_dir: Path, samples: int) -> float:
    """Seconds from the start of a process to a verified cubin from disk."""
    first_kernel(cache_dir, SmArch.SM80, "disk")  # uncounted: fills the disk cache of the system
    return medians([first_kernel(cache_dir, SmArch.SM80, "disk") for _ in range(samples)]).total


class Warming(NamedTuple):
    """``flashactor warm`` with WARMED and an empty cache.

    Attributes:
        kernels: how many it compiled.
        cost: what it took.
        in_nvrtc: seconds that its threads spent in NVRTC.
    """

    kernels: int
    cost: Cost
    in_nvrtc: float


def warming(jobs: int) -> Warming:
    """Warm an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flashactor", "warm", *WARMED, "--json", "--jobs", str(jobs)]
        taken, printed = cost(command, Path(folder))
        in_nvrtc = sum(record.compile_seconds for record in CubinCache(Path(folder)).records())
    counts = json.loads(printed)
    if not 0 < counts["compiled"] == counts["kernels"]:
        raise RuntimeError("not every kernel was compiled")
    return Warming(counts["kernels"], taken, in_nvrtc)


def crowd() -> dict[str, float]:
    """Many processes ask for one kernel that nobody has: seconds to the last answer, and of the compile."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MEMBER, folder]
        members: list[subprocess.Popen[str]] = []
        try:
            for _ in range(CROWD):
                members.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
            for member in members:
                if member.stdout is None or member.stdout.readline() != "ready\n":
                    raise RuntimeError("a process did not start")
            start = perf_counter()
            for member in members:
                if member.stdin is not None:
                    member.stdin.write("\n")
                    member.stdin.flush()
            answers = [member.communicate()[0].split() for member in members]
        finally:
            for member in members:
                member.kill()  # nothing happens to those that have ended
                member.wait()
    if len({digest for *_, digest in answers}) != 1:
        raise RuntimeError("processes got different cubins")
    return {
        "last_answer_seconds": max(float(answered) for answered, *_ in answers) - start,
        "compile_seconds": float(answers[0][2]),
        "compiles": sum(int(compiled) for _, compiled, *_ in answers),
    }


def ours(jobs: int, cache_dir: Path) -> dict[str, Any]:
    """The same figures as of the peers, of ``flashactor warm``."""
    state = "warm" if any(cache_dir.iterdir()) else "cold"
    cells = product(PEER_ARCHS, DTYPES, PEER_HEAD_DIMS)
    labels = [forward_spec(arch, dtype, head_dim).label for arch, dtype, head_dim in cells]
    command = [sys.executable, "-m", "flashactor", "warm", "--kernel", *labels]
    command += ["--jobs", str(jobs), "--json"]
    taken, printed = cost(command, cache_dir)
    first = first_kernel(cache_dir, SmArch.SM80, "disk").total if state == "warm" else 0.0
    if state == "cold":
        with tempfile.TemporaryDirectory() as empty:
            first = first_kernel(Path(empty), SmArch.SM80, "compiled").total
    return {
        "peer": "flashactor",
        "kernels": json.loads(printed)["kernels"],
        "jobs": jobs,
        "state": state,
        "wall_seconds": taken.wall,
        "cpu_seconds": taken.cpu,
        "first_kernel_seconds": first,
        "bytes": sum(path.stat().st_size for path in cache_dir.rglob("*") if path.is_file()),
    }


def theirs(
    python: Path, module: str, jobs: int, cache_dir: Path, kernels: int = PEER_KERNELS
) -> dict[str, Any]:
    """What a peer's module prints, with what the whole command took."""
    command = [str(python), "-m", f"benchmarks.peer_caches.{module}", "--cache", str(cache_dir)]
    taken, printed = cost([*command, "--kernels", str(kernels), "--jobs", str(jobs)], cache_dir)
    figures: dict[str, Any] = json.loads(printed)
    return {**figures, "wall_seconds": taken.wall, "cpu_seconds": taken.cpu}


def beside_peers(triton: Path | None, fa4: Path | None) -> list[dict[str, Any]]:
    """Cold with one and two jobs, then from the filled cache, for each of us in turn."""
    runs: list[dict[str, Any]] = []
    for name, python in (("", Path()), ("triton_cache", triton), ("fa4_cache", fa4)):
        if python is None:
            continue
        if name:
            with tempfile.TemporaryDirectory() as folder:  # uncounted: fills the disk cache of the system
                theirs(python, name, 1, Path(folder), kernels=2)
        for jobs in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                for _ in ("cold", "warm"):
                    path = Path(folder)
                    runs.append(theirs(python, name, jobs, path) if name else ours(jobs, path))
                    print(json.dumps(runs[-1]), file=sys.stderr)
    return runs


def peer_table(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown, a row for each peer."""
    lines = [
        f"## {PEER_KERNELS} kernels of peers, and what computes the same, beside their caches",
        "",
        "| | cold, 1 job | cold, 2 jobs | efficiency | CPU a kernel | all from the cache | first kernel cold "
        "| first kernel cached | cache |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for peer in dict.fromkeys(run["peer"] for run in runs):
        by = {(run["state"], run["jobs"]): run for run in runs if run["peer"] == peer}
        cold, two, warm = by["cold", 1], by["cold", 2], by["warm", 1]
        lines.append(
            f"| {peer} {cold.get('version', '')} "
            f"| {cold['wall_seconds']:.1f} s | {two['wall_seconds']:.1f} s "
            f"| {cold['wall_seconds'] / two['wall_seconds'] / 2:.2f} "
            f"| {cold['cpu_seconds'] / cold['kernels']:.2f} s | {warm['wall_seconds']:.2f} s "
            f"| {cold['first_kernel_seconds']:.2f} s | {warm['first_kernel_seconds']:.2f} s "
            f"| {cold['bytes'] / 2**20:.1f} MiB |"
        )
    return "\n".join([*lines, "", NOTES])


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=9, help="processes for the start")
    parser.add_argument("--triton", type=Path, metavar="PYTHON", help="interpreter that has triton")
    parser.add_argument("--fa4", type=Path, metavar="PYTHON", help="interpreter that has flash-attn-4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache_dir = Path(folder)
        in_memory = memory_hit(cache_dir)
        opening, loading = disk_hit(cache_dir)
        start = process_start(cache_dir, options.samples)
    crowds = [crowd() for _ in range(3)]
    worst = max(crowds, key=lambda taken: taken["last_answer_seconds"])
    (kernels, one, in_nvrtc), (_, two, _) = warming(1), warming(2)
    runs = beside_peers(options.triton, options.fa4)
    rows = [
        ("hit in memory", f"{in_memory * 1e6:.1f} us", MEMORY_GOAL),
        (
            f"verified hit on disk, {LARGE_CUBIN_BYTES // 1000} KB; the first of a cache",
            f"{loading * 1e3:.2f} ms; {opening * 1e3:.2f} ms",
            DISK_GOAL,
        ),
        ("process start to a verified cubin from disk", f"{start:.2f} s", START_GOAL),
        (
            f"warming {kernels} kernels ({' '.join(WARMED)}) with 1 and 2 jobs",
            f"{one.wall:.1f} s, {two.wall:.1f} s",
            "",
        ),
        ("parallel efficiency of that", f"{one.wall / two.wall / 2:.2f}", EFFICIENCY_GOAL),
        (
            "processor time a kernel, 1 and 2 jobs",
            f"{one.cpu / kernels:.2f} s, {two.cpu / kernels:.2f} s",
            CPU_GOAL,
        ),
        (
            "of it in NVRTC, with 1 job: what this machine takes for the compiler alone today",
            f"{in_nvrtc / kernels:.2f} s",
            "",
        ),
        (
            f"{CROWD} processes ask for one kernel at once: the last answer, worst of {len(crowds)}",
            f"{worst['last_answer_seconds']:.2f} s; {worst['compiles']} compile of "
            f"{worst['compile_seconds']:.2f} s",
            CROWD_GOAL,
        ),
    ]
    results = {
        "memory_hit_seconds": in_memory,
        "disk_hit_seconds": {"first": opening, "later": loading},
        "process_start_seconds": start,
        "warming": {
            "options": WARMED,
            "kernels": kernels,
            "jobs_1": one._asdict(),
            "jobs_2": two._asdict(),
            "nvrtc_seconds": in_nvrtc,
        },
        "crowd": crowds,
        "peers": runs,
    }
    print(write("cubin_cache", results, rows, peer_table(runs)).read_text())


if __name__ == "__main__":
    main()
