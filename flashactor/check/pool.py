"""Checks of many kernels in processes: the emulator is Python, and keeps a core busy for each kernel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from flashactor.check.report import Halves, KernelReport, check_kernel
from flashactor.errors import OutOfMemoryError
from flashactor.kernels.spec import KernelSpec
from flashactor.settings import Settings, one_blas_thread


def check_kernels(
    specs: Sequence[KernelSpec], settings: Settings, halves: Halves, jobs: int
) -> Generator[KernelReport, None, None]:
    """Each kernel's report as soon as it is there. No process outlives the generator, however it ends.

    Call it from the main thread, and exhaust or close the generator.

    Raises:
        OutOfMemoryError: the system killed a process.
        Everything that ``check_kernel`` raises.
    """
    if not specs:
        return
    before = set(multiprocessing.active_children())
    # Spawned, not forked: a fork copies the locks of threads that it does not copy.
    pool = ProcessPoolExecutor(
        min(jobs, len(_groups(specs))),
        multiprocessing.get_context("spawn"),
        initializer=_be_a_group_that_ends_with_its_parent,
    )
    try:
        # The processes start here and inherit the mask: Ctrl-C reaches this process alone, and none of them
        # prints a traceback.
        unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with one_blas_thread():
                futures = [pool.submit(_check_group, group, settings, halves) for group in _groups(specs)]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
        for future in as_completed(futures):
            yield from future.result()
    except BrokenProcessPool as error:
        raise OutOfMemoryError(
            field="jobs",
            got=f"{jobs} processes, one of which the system ended",
            expected="enough memory for each of them",
            remedy="use fewer --jobs",
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            _end(process)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _groups(specs: Sequence[KernelSpec]) -> list[list[KernelSpec]]:
    """Kernels that differ in the architecture alone, together: most of them share one emulation."""
    groups: dict[object, list[KernelSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.source, spec.defines), []).append(spec)
    return list(groups.values())


def _check_group(specs: Sequence[KernelSpec], settings: Settings, halves: Halves) -> list[KernelReport]:
    return [check_kernel(spec, settings, halves) for spec in specs]


def _end(process: BaseProcess) -> None:
    """End a process and the tool that it may be running."""
    with suppress(ProcessLookupError):  # it has not come to be a group yet, or is gone
        if process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _be_a_group_that_ends_with_its_parent() -> None:
    """In a new process: whoever ends the group ends its tools too, and it ends when the parent is killed."""
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)
