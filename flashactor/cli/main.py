"""The ``flashactor`` command: parse, run one command, turn every failure into one line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from flashactor.cli.interrupts import INTERRUPTED, LINE, orderly_interrupts
from flashactor.cli.output import print_error
from flashactor.cli.streams import lasting_streams

EXIT_CODES = """\
exit codes:
  0    done
  1    something that was to be made, written or checked failed: a compile, a check, a cached kernel,
       a file, the doctor's essentials
  2    bad input: one line on stderr says which, and what to do
  130  interrupted by Ctrl-C; the cache stays usable
"""
FAILED, BAD_INPUT = 1, 2


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with the code for bad input."""
        print(f"flashactor: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; they are imported here, where Ctrl-C is handled."""
    import flashactor
    from flashactor.cli import attend, cache, check, doctor, explain, top, warm

    parser = OneLineParser(
        prog="flashactor",
        description="Attention as a service: compute, explain, warm the cache, check, and watch actors.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flashactor {flashactor.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens inside, on stderr")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (attend, explain, warm, cache, check, doctor, top):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        with orderly_interrupts(), lasting_streams():
            return _run(arguments)
    except KeyboardInterrupt:
        with lasting_streams():
            print(LINE, file=sys.stderr)
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    from flashactor.errors import CacheCorruptError, CacheMissError, CompileError, FlashAttnError, OutputError

    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as exit_:  # argparse has printed its line, or the help
        return exit_.code if isinstance(exit_.code, int) else BAD_INPUT
    try:
        _configure_logging(options.verbose)
        code: int = options.run(options)
        sys.stdout.flush()
    except (CompileError, CacheMissError, CacheCorruptError, OutputError) as error:
        return _fail(error, FAILED)
    except (FlashAttnError, OSError) as error:
        return _fail(error, BAD_INPUT)
    return code


def _configure_logging(verbose: bool) -> None:
    from flashactor.settings import Settings

    level = Settings.from_environment().log_level
    if verbose or level != "warning":
        from flashactor.telemetry.logging import configure

        configure("debug" if verbose else level)


def _fail(error: Exception, code: int) -> int:
    print_error(error)
    return code
