"""How a command shows that it goes on, one kernel after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def kernel_progress(total: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, one line a kernel in a pipe, nothing for ``--json``."""
    if quiet:
        yield lambda label: None
    elif not sys.stdout.isatty():
        yield lambda label: print(label, flush=True)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns) as progress:
            task = progress.add_task("", total=total)
            yield lambda label: progress.update(task, advance=1, description=label)
