"""Operands, from their text (PTX ISA, sections 4.5 and 6)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from flashactor.emulator.ptx.module import (
    Address,
    Discard,
    Immediate,
    Not,
    Operand,
    Pair,
    Register,
    Symbol,
    Vector,
)

_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?$")
_ADDRESS = re.compile(r"(.+?)\s*(?:([+-])\s*(-?\w+))?$", re.S)


def parse_operand(text: str, resolve: Callable[[str], Operand]) -> Operand:
    """The operand that a text describes; ``resolve`` knows what a name stands for."""
    first = text[0]
    if first == "{":
        return Vector(tuple(parse_operand(part.strip(), resolve) for part in split_list(text[1:-1])))
    if first == "[":
        parts = split_list(text[1:-1])
        coordinates: tuple[Operand, ...] = ()
        if len(parts) > 1:
            tensor = parse_operand(parts[1].strip(), resolve)
            coordinates = tensor.items if isinstance(tensor, Vector) else (tensor,)
        found = _ADDRESS.match(parts[0].strip())
        assert found
        name, sign, offset = found.groups()
        shift = int(offset or "0", 0) * (-1 if sign == "-" else 1)
        return Address(parse_operand(name.strip(), resolve), shift, coordinates)
    if "|" in text:
        left, right = text.split("|", 1)
        return Pair(parse_operand(left.strip(), resolve), parse_operand(right.strip(), resolve))
    if first == "!":
        register = resolve(text[1:].strip())
        assert isinstance(register, Register)
        return Not(register)
    if first.isdigit() or first == "-":
        return parse_constant(text)
    if text == "_":
        return Discard()
    if "+" in text:
        name, _, distance = text.partition("+")
        symbol = resolve(name.strip())
        if isinstance(symbol, Symbol):
            return Symbol(symbol.name, symbol.space, symbol.offset + int(distance, 0))
    return resolve(text)


def parse_constant(text: str) -> Immediate:
    """A literal (PTX ISA, section 4.5): an integer of any base, or a float by value or by bits."""
    if text[:2] in ("0f", "0F"):
        return Immediate(int(text[2:], 16), "f32")
    if text[:2] in ("0d", "0D"):
        return Immediate(int(text[2:], 16), "f64")
    if _INTEGER.match(text):
        digits = text.rstrip("U")
        octal = re.match(r"-?0\d+$", digits)
        return Immediate(int(digits, 8 if octal else 0))
    return Immediate(struct.unpack("<Q", struct.pack("<d", float(text)))[0], "f64")


def split_list(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    if not text.strip():
        return []
    if "{" not in text and "[" not in text:
        return text.split(",")
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        elif character == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts
