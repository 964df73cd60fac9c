"""JSON of records, with paths that are not UTF-8.

A path on Linux is bytes; in a `str` those that are not UTF-8 are lone surrogates (U+DC80 to U+DCFF), which JSON cannot
hold. They are written as U+10FF80 to U+10FFFF, the last of the private use plane, and turned back when read.
"""

from __future__ import annotations

from typing import Any

import msgspec

_TO_JSON = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_FROM_JSON = {there: here for here, there in _TO_JSON.items()}
_MARKS = (b"\xf4\x8f\xbe", b"\xf4\x8f\xbf")  # how the UTF-8 of the stand-ins begins


def encode(value: Any) -> bytes:
    """The JSON bytes of a value, fields in the order of the class."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_translate(msgspec.to_builtins(value), _TO_JSON))


def decode(data: bytes | msgspec.Raw, kind: type[Any]) -> Any:
    """A value from its JSON bytes. Raises `msgspec.MsgspecError` or `UnicodeDecodeError`."""
    try:
        value = msgspec.json.decode(data, type=kind)
        plain = bytes(data)
        if any(mark in plain for mark in _MARKS):
            value = msgspec.convert(_translate(msgspec.json.decode(data), _FROM_JSON), type=kind)
    except RecursionError:  # what nests so deep is no record, also where it stands in a field that is ignored
        raise msgspec.DecodeError("it is nested too deeply") from None
    return value


def _translate(value: Any, table: dict[int, int]) -> Any:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict):
        return {_translate(key, table): _translate(held, table) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_translate(held, table) for held in value]
    return value
