"""`docs/format.md` as data: its tables, each named by a comment above it, and its test vectors."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")

_STRUCT_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


def _cells(line: str) -> list[str]:
    # A bar inside a cell is written `\|`.
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [part.strip().replace("\\|", "|") for part in parts]


def table(name: str) -> list[dict[str, str]]:
    """The rows of the table of that name, by column."""
    _, _, rest = TEXT.partition(f"<!-- table: {name} -->\n")
    assert rest, f"docs/format.md has no table '{name}'"
    lines = []
    for line in rest.splitlines():
        if not line.startswith("|"):
            break
        lines.append(line)
    head, rows = _cells(lines[0]), [_cells(line) for line in lines[2:]]
    assert rows
    assert all(len(row) == len(head) for row in rows), f"table '{name}' is ragged"
    return [dict(zip(head, row, strict=True)) for row in rows]


def plain(cell: str) -> str:
    """A cell without the backquotes round it."""
    return cell.strip("`")


def table_names() -> list[str]:
    return re.findall(r"<!-- table: (.*?) -->", TEXT)


def struct_format(name: str) -> str:
    """The `struct` format of a table of offsets, whose rows must follow each other without a gap."""
    code, end = "<", 0
    for row in table(name):
        size = int(row["size"])
        assert int(row["offset"]) == end, f"{name}: '{row['name']}' is not where the row before it ends"
        assert WIDTHS.get(row["type"], size) == size, f"{name}: '{row['name']}' has not the size of its type"
        code += _STRUCT_CODES.get(row["type"]) or f"{size}s"
        end += size
    assert struct.calcsize(code) == end
    return code


def read_columns(head_table: str, columns_table: str, data: bytes) -> dict[str, Any]:
    """Read a head and the columns after it as the document tells them, with the standard library alone."""
    code = struct_format(head_table)
    names = [row["name"] for row in table(head_table)]
    head = dict(zip(names, struct.unpack_from(code, data), strict=True))
    found: dict[str, Any] = dict(head)
    at = struct.calcsize(code)
    for row in table(columns_table):
        count, kind = head[row["count"]], row["type"]
        if kind.startswith("bytes "):
            width = int(kind.removeprefix("bytes "))
            values: list[Any] = [data[at + width * i : at + width * (i + 1)] for i in range(count)]
        else:
            width = WIDTHS[kind]
            values = list(struct.unpack_from(f"<{count}{_STRUCT_CODES[kind]}", data, at))
        if row.get("coding") == "differences":
            for i in range(1, count):
                values[i] = (values[i] + values[i - 1]) % (1 << 32)
        at += width * count
        found[f"{row['column']} column" if row["column"] in head else row["column"]] = values
    assert at == len(data), f"{columns_table}: {len(data) - at} bytes are told by no row"
    return found


def vectors() -> dict[str, Any]:
    """The test vectors of the last section."""
    _, _, rest = TEXT.partition("<!-- vectors -->\n```json\n")
    found: dict[str, Any] = json.loads(rest.partition("\n```")[0])
    return found
