"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from flashactor.errors import FlashAttnError, RequestError
from flashactor.types import DType, MaskKind, SmArch

T = TypeVar("T")

LARGEST_SIZE = 1 << 30
"""No size is more than that; kernels count in 32 bits."""


def parsed_by(parse: Callable[[str], T]) -> Callable[[str], T]:
    """An argparse type from a parser that raises FlashAttnError."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except FlashAttnError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _parse_size(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or abs(number) > LARGEST_SIZE:
        raise reject(
            "number", text[:80], f"an integer of at most 2**30 ({LARGEST_SIZE})", "name such a number"
        )
    return number


arch = parsed_by(SmArch.parse)
dtype = parsed_by(DType.parse)
size = parsed_by(_parse_size)


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    """``--causal`` and ``--window``."""
    parser.add_argument("--causal", action="store_true", help="a query sees itself and what came before it")
    parser.add_argument("--window", type=size, metavar="N", help="a query sees the N keys nearest to it")


def mask_of(options: argparse.Namespace) -> MaskKind:
    """The mask that ``--causal`` and ``--window`` describe."""
    return MaskKind(is_causal=options.causal, sliding_window=options.window)


def reject(field: str, got: object, expected: str, remedy: str) -> RequestError:
    """The error for an input that no request type would see."""
    return RequestError(field=field, got=got, expected=expected, remedy=remedy)
