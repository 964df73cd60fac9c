"""Bytes made wrong: by bit, by number, by JSON value, and by what other inputs have in the same place."""

from __future__ import annotations

import json
import random
from typing import Any

EDGES = [0, 1, 2, 7, 8, 9, 15, 16, 255, 256, 1023, 1024, 1025, 65535, 65536, 65537, (1 << 18) + 1, (1 << 21) + 1]
EDGES += [(1 << power) + more for power in (31, 32, 40, 62, 63, 64) for more in (-1, 0, 1)]
TEXTS = [
    "", "x", "../../etc/passwd", "/etc/passwd", "a/b", "..", ".", "CON", "a" * 81, "a" * 5000, "\x1b[2J\x1b]0;x\x07",
    "\x9b31m", "\u202etxt", "null\0byte", "line\nbreak", "\U0010ff9b", "é" * 40, "0", "-1", "1e309", "9" * 30,
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01", "9999-12-31", "2026-02-30", "0" * 32,
    "f" * 32, "F" * 32, " " * 32, "aes-256-gcm", "none", "main", "void", "blockvault", "crash", "scan",
]  # fmt: skip
NUMBERS = [-(1 << 63), -1, 0.5, 1e308, -1e308, *EDGES, 10**30, 10**400]


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to four changes of `data`."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        how = rng.randrange(10)
        if how >= 7 and data[:1] not in (b"", b"\0") and (text := _mutated_json(data, rng)) is not None:
            data = text
        else:
            data = _mutated_bytes(data, rng, others, how)
    return data[: 1 << 20]


def _mutated_bytes(data: bytes, rng: random.Random, others: list[bytes], how: int) -> bytes:
    size = len(data)
    at = rng.randrange(size + 1)
    if rng.random() < 0.3:
        at = min(size, rng.randrange(64))  # heads are short, and decide most
    if how == 0:
        return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 8, 16))) + data[at:]
    if how == 1:
        return data[:at] + data[at + rng.choice((1, 2, 4, 16, 41, 256)) :]
    if how == 2:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if at < size else data
    if how in (3, 4, 5, 7):
        width = rng.choice((1, 4, 4, 8))
        at -= at % width if rng.random() < 0.5 else 0
        number = rng.choice(EDGES) if rng.random() < 0.7 else size + rng.randrange(-3, 4)
        return data[:at] + (number & ((1 << (8 * width)) - 1)).to_bytes(width, "little") + data[at + width :]
    if how == 6 and others:
        other = rng.choice(others)
        begin = rng.randrange(len(other) + 1)
        return data[:at] + other[begin : begin + rng.choice((4, 16, 64, 1024))] + data[at:]
    length = rng.choice((4, 16, 64))
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def _mutated_json(data: bytes, rng: random.Random) -> bytes | None:
    """The same JSON with one value changed, taken away, doubled or nested; None if it is not JSON, but for a byte."""
    skip = 0 if data[:1] in b"{[" else 1
    try:
        value = json.loads(data[skip:])
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []

    def walk(held: Any) -> None:
        keys = list(held) if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ()
        for key in keys:
            places.append((held, key))
            walk(held[key])

    walk(value)
    if not places:
        return None
    held, key = rng.choice(places)
    how = rng.randrange(8)
    if how == 0:
        del held[key]
    elif how == 1:
        held[key] = rng.choice(NUMBERS)
    elif how in (2, 3):
        held[key] = rng.choice(TEXTS)
    elif how == 4:
        held[key] = rng.choice((None, True, [], {}, [[]], {"": ""}, [None] * 300))
    elif how == 5 and isinstance(held, list):
        held.extend([held[key]] * rng.choice((1, 15, 300)))
    elif how == 6:
        other, other_key = rng.choice(places)
        held[key] = json.loads(json.dumps(other[other_key])) if other_key in other or isinstance(other, list) else 0
    else:
        for _ in range(rng.choice((3, 3000))):
            held[key] = [held[key]]
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=rng.random() < 0.5)
        return data[:skip] + text.encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return data[:skip] + b"[" * 200_000
