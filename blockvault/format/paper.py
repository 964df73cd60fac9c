"""The paper key: a vault's master key as lines that a person can copy by hand and type again.

    1  K3VQ-0A8D-9XN2-R7TM      8 bytes of the key and 2 that check the line, in base 32
    2  ...                      four such lines are the 32 bytes

The alphabet has no I, L, O, U: when read, I and L are 1, O is 0; case, blanks and hyphens mean nothing. The check
covers the line's number too, so a mistake is told with its line, and lines in the wrong order are found. All other
lines are for people: which vault it opens, when it was printed.
"""

from __future__ import annotations

import re

import blake3

from blockvault.errors import InvalidInputError

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LINES = 4
LINE_BYTES = 8
CHECK_BYTES = 2

_LINE = re.compile(r"\s*([1-4])[\s.:)]+([0-9A-Za-z\s-]*?)\s*\Z")
_LOOK_ALIKE = str.maketrans("ILO", "110", " \t-")


def paper_lines(master: bytes) -> list[str]:
    """The four groups of signs, without their numbers."""
    lines = []
    for number in range(1, LINES + 1):
        part = master[(number - 1) * LINE_BYTES : number * LINE_BYTES]
        value = int.from_bytes(part + _check(number, part), "big")
        signs = "".join(ALPHABET[value >> shift & 31] for shift in range(75, -1, -5))
        lines.append("-".join(signs[at : at + 4] for at in range(0, 16, 4)))
    return lines


def paper_text(master: bytes, *, vault_name: str, vault_id: str, made: str) -> str:
    """The whole sheet."""
    key = "\n".join(f"{number}  {line}" for number, line in enumerate(paper_lines(master), 1))
    return (
        "BlockVault paper key\n\n"
        f"vault  {vault_name}\n"
        f"id     {vault_id}\n"
        f"made   {made}\n\n"
        f"{key}\n\n"
        "Whoever has these four lines can read and change the whole vault. Keep them where you keep what must never\n"
        "be lost nor seen. To get back in with them: blockvault vault key import FILE\n"
    )


def read_paper(text: str) -> bytes:
    """The master key of a sheet, or of its four numbered lines alone.

    Raises `InvalidInputError`: `key.paper-incomplete`, `key.paper-typo` with the line's number.
    """
    parts: dict[int, bytes] = {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        number = int(found[1])
        part = _read_line(number, found[2])
        if parts.setdefault(number, part) != part:
            raise _mistake(number, "it is there twice, and differs")
    missing = [str(number) for number in range(1, LINES + 1) if number not in parts]
    if missing:
        raise InvalidInputError(
            "key.paper-incomplete",
            f"the paper key lacks line {', '.join(missing)}",
            why=f"it has {LINES} lines, each with its number in front",
            do="type all of them, for example: 1  K3VQ-0A8D-9XN2-R7TM",
        )
    return b"".join(parts[number] for number in range(1, LINES + 1))


def _read_line(number: int, text: str) -> bytes:
    signs = text.upper().translate(_LOOK_ALIKE)
    if len(signs) != 16:
        raise _mistake(number, f"it has {len(signs)} signs where 16 belong")
    value = 0
    for sign in signs:
        if sign not in ALPHABET:
            raise _mistake(number, "it has a sign that a paper key never has")
        value = value << 5 | ALPHABET.index(sign)
    data = value.to_bytes(LINE_BYTES + CHECK_BYTES, "big")
    if data[LINE_BYTES:] != _check(number, data[:LINE_BYTES]):
        raise _mistake(number, "its signs do not fit each other")
    return data[:LINE_BYTES]


def _check(number: int, part: bytes) -> bytes:
    return blake3.blake3(b"blockvault paper key" + bytes([number]) + part).digest(length=CHECK_BYTES)


def _mistake(number: int, why: str) -> InvalidInputError:
    do = "compare it with the paper, sign by sign"
    return InvalidInputError("key.paper-typo", f"line {number} of the paper key has a mistake", why=why, do=do)
