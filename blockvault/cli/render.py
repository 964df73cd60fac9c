"""How results are written: tables and facts for people, JSON for programs.

Results go to standard output, everything else to standard error. On a terminal tables are drawn by rich, then
imported; elsewhere the same columns come plain. In JSON bytes and seconds are numbers, times RFC 3339 in UTC.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from datetime import date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

from blockvault.clock import age, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# What a terminal obeys instead of showing it: controls (escape sequences begin with one), and marks that turn the
# direction of writing. A vault's records may have been written by anyone.
_OBEYED = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\udc80-\udc9f]"
)
_ANSI = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def shown(text: str) -> str:
    r"""`text` with all that a terminal would obey written out, `\x1b` for an escape."""
    try:
        # Bytes of a path that are not UTF-8 go out as they are: together they may be what a terminal obeys.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return _OBEYED.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code & 0xFF:02x}" if code < 0x100 or 0xDC80 <= code < 0xE000 else f"\\u{code:04x}"


class Output:
    """Where a command writes. `results` is standard output unless that carries a disk's bytes."""

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False, color: str | None = None
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.choose_color: Callable[[], str] = lambda: "auto"  # asked when the first line is written
        self._color = color
        self.results: TextIO = sys.stdout

    @property
    def messages(self) -> TextIO:
        """Standard error as it is now: while bars are drawn rich stands in its place, lines go above."""
        return sys.stderr

    def bytes_on_stdout(self) -> None:
        """Standard output carries a disk's bytes: all that is said goes to standard error."""
        self.results = sys.stderr

    def colored(self, stream: TextIO) -> bool:
        """Whether to write colours to the stream."""
        if self._color is None:
            self._color = self.choose_color()
        if self._color != "auto":
            return self._color == "always"
        return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()

    def paint(self, text: str, style: str, stream: TextIO) -> str:
        """`text` in that style, if the stream takes colours."""
        text = shown(text)
        return f"\x1b[{_ANSI[style]}m{text}\x1b[0m" if self.colored(stream) else text

    # --- results

    def line(self, text: str = "") -> None:
        """One line of a result."""
        self.results.write(text + "\n")

    def document(self, fields: Mapping[str, Any]) -> None:
        """One JSON document, or one of several JSON lines."""
        self.results.write(json.dumps(to_json(fields)) + "\n")
        self.results.flush()

    def facts(self, title: str, facts: Iterable[tuple[str, str]]) -> None:
        """A heading and aligned name-value lines."""
        rows = [(shown(name), shown(value)) for name, value in facts]
        width = max((len(name) for name, _ in rows), default=0)
        self.line(self.paint(title, "bold", self.results))
        for name, value in rows:
            self.line(f"  {name:<{width}}  {value}".rstrip())

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; a column whose title begins with `>` is set flush right."""
        rows = [[shown(cell) for cell in row] for row in rows]
        if self.results.isatty():
            self._rich_table(columns, rows)
            return
        titles = [title.lstrip(">") for title in columns]
        widths = [max(len(row[index]) for row in [titles, *rows]) for index in range(len(columns))]
        for row in [titles, *rows]:
            cells = [
                cell.rjust(width) if title.startswith(">") else cell.ljust(width)
                for cell, width, title in zip(row, widths, columns, strict=True)
            ]
            self.line("  ".join(cells).rstrip())

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in columns:
            flush_right = title.startswith(">")
            table.add_column(title.lstrip(">"), justify="right" if flush_right else "left", overflow="fold")
        for row in rows:
            table.add_row(*[Text(cell) for cell in row])
        colored = self.colored(self.results)
        Console(file=self.results, no_color=not colored, force_terminal=colored, highlight=False).print(table)

    # --- messages

    def message(self, label: str, text: str, style: str = "dim") -> None:
        """One line on standard error."""
        text = shown(text) if label else "\n".join(shown(line) for line in text.split("\n"))
        self.messages.write(f"{self.paint(label, style, self.messages)} {text}\n" if label else text + "\n")
        self.messages.flush()

    def note(self, text: str) -> None:
        """Something the user may want to know; not with `-q`."""
        if not self.quiet:
            self.message("note:", text, "cyan")

    def warning(self, text: str, kind: str | None = None) -> None:
        """Something that leaves the work less than whole."""
        if self.as_json:
            self.document({"message_type": "warning", "kind": kind, "message": text})
        else:
            self.message("warning:", text + (f"   [{kind}]" if kind else ""), "yellow")


def to_json(value: Any) -> Any:
    """Dataclasses, times, enums and bytes as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    return value


def moment(when: datetime, now: datetime | None = None) -> str:
    """Local time to the minute, with the age if `now` is given: `2026-11-20 02:00 (3 d)`."""
    text = when.astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{text} ({age(when, now)})" if now else text
