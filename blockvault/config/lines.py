"""Where the keys of a TOML document stand: `tomllib` reads values, and this tells their lines, for messages.

It is given only documents that `tomllib` has read, so that it need not find faults: it steps over strings, comments and
brackets to where the next statement begins.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BARE_OR_QUOTED = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = rf"[ \t]*{_BARE_OR_QUOTED}(?:[ \t]*\.[ \t]*{_BARE_OR_QUOTED})*[ \t]*"
_PART = re.compile(_BARE_OR_QUOTED)
_STATEMENT = re.compile(rf"(?P<open>\[\[?)(?P<header>{_KEY})\]\]?|(?P<key>{_KEY})=")
_PIECE = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|"(?:[^"\\\n]|\\.)*"'''  # strings that know escapes
    r"""|'''.*?'{3,5}|'[^'\n]*'"""  # and those that do not
    r"|#[^\n]*|\n|.",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every key and table: `("daemon", "captures")`, `("notify", 0, "url")`.

    Keys within an inline table have the line of the statement that they are in, and no entry of their own.
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    line, at = 1, 0
    while at < len(text):
        found = None if text[at] in "\n\r \t#" else _STATEMENT.match(text, at)
        if found is None:
            piece = _PIECE.match(text, at)
            assert piece is not None
            line += piece[0].count("\n")
            at = piece.end()
            continue
        if found["header"]:
            is_list = len(found["open"]) == 2
            table = _resolved(_parts(found["header"]), counts, is_list=is_list)
            for length in range(1, len(table) + 1):
                lines.setdefault(table[:length], line)
            at = found.end()
            continue
        path = table
        for part in _parts(found["key"]):
            path = (*path, part)
            lines.setdefault(path, line)
        at, line = _after_value(text, found.end(), line)
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of a key, or of the nearest that encloses it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _parts(key: str) -> list[str]:
    import tomllib

    parts = []
    for part in _PART.findall(key):
        if part[0] in "\"'":
            (part,) = tomllib.loads(f"{part} = 0")
        parts.append(part)
    return parts


def _resolved(parts: list[str], counts: dict[Path, int], *, is_list: bool) -> Path:
    """The path of a header: where it names a list of tables, the newest of them."""
    path: Path = ()
    for index, part in enumerate(parts):
        path = (*path, part)
        if is_list and index == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _after_value(text: str, at: int, line: int) -> tuple[int, int]:
    """Where the line ends on which a value ends, and its number."""
    depth = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        assert piece is not None
        depth += (piece[0] in "[{") - (piece[0] in "]}")
        if piece[0] == "\n" and depth <= 0:
            break
        line += piece[0].count("\n")
        at = piece.end()
    return at, line
