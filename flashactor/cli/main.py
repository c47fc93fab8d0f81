"""The ``flashactor`` command: parse, run one command, turn every failure into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import flashactor
from flashactor.cli import attend, cache, check, doctor, explain, warm
from flashactor.cli.output import print_error
from flashactor.errors import CacheCorruptError, CacheMissError, CompileError, FlashAttnError
from flashactor.settings import Settings

EXIT_CODES = """\
exit codes:
  0    done
  1    something that was to be made or checked failed: a compile, a check, a cached kernel, an export,
       the doctor's essentials
  2    bad input: one line on stderr says which, and what to do
  130  interrupted by Ctrl-C; the cache stays usable
"""
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
COMMANDS = (attend, explain, warm, cache, check, doctor)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with the code for bad input."""
        print(f"flashactor: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = OneLineParser(
        prog="flashactor",
        description="Attention as a service: compute, explain, warm the cache, check kernels and machine.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flashactor {flashactor.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens inside, on stderr")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if sys.stdout is None or sys.stderr is None:  # closed by the caller: there is nobody to print for
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end, as stdout is
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as exit_:  # argparse has printed its line, or the help
        return exit_.code if isinstance(exit_.code, int) else BAD_INPUT
    try:
        _configure_logging(options.verbose)
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe is gone: nothing is left to say. Point stdout away, or the interpreter's own
        # flush at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("flashactor: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (CompileError, CacheMissError, CacheCorruptError) as error:
        return _fail(error, FAILED)
    except (FlashAttnError, OSError) as error:
        return _fail(error, BAD_INPUT)
    return code


def _configure_logging(verbose: bool) -> None:
    level = Settings.from_environment().log_level
    if verbose or level != "warning":
        from flashactor.telemetry.logging import configure

        configure("debug" if verbose else level)


def _fail(error: Exception, code: int) -> int:
    print_error(error)
    return code
