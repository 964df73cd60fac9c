"""Rows as comma-separated values, for spreadsheets and scripts: figures as numbers, times in RFC 3339.

Invariants:
- One line a row under one line of names; a name is never given another meaning.
- No cell is a formula to a spreadsheet: an item may be called `=HYPERLINK(...)` by whoever wrote the vault.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from datetime import date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from blockvault.clock import to_text
from blockvault.reports.pictures import written_out
from blockvault.reports.sla import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARTS: dict[str, type[Any]] = {"Spread": Spread}  # what is a dataclass in a row, by its name
_FORMULA = ("=", "+", "-", "@")


def as_csv(kind: type[Any], rows: Iterable[Any]) -> str:
    """Dataclasses of one `kind` as CSV; what is a dataclass itself becomes columns `field_part`."""
    names = [name for name, _ in _columns(kind, None)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(value) for _, value in _columns(kind, row)])
    return text.getvalue()


def _columns(kind: type[Any], row: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for entry in dataclasses.fields(kind):
        value = None if row is None else getattr(row, entry.name)
        part = _PARTS.get(str(entry.type))
        if part is None:
            if not str(entry.type).startswith("tuple["):  # a list is no cell: `--format json` has it
                found.append((entry.name, value))
        else:
            found += [(f"{entry.name}_{name}", held) for name, held in _columns(part, value)]
    return found


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        value = written_out(value)
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value
