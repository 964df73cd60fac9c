"""What reports print is what it was: `golden_reports.py` writes the files anew when it is meant to change."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest
from golden_reports import FOLDER, in_utc, rendered


@pytest.fixture(scope="module")
def files() -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        in_utc()
        yield rendered()


def test_all_files_are_held(files: dict[str, str]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == files.keys()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_it_is_what_it_was(files: dict[str, str], name: str) -> None:
    assert files[name].encode("utf-8", "surrogateescape") == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", ["rpo", "sla", "capacity", "forecast"])
def test_json_and_csv_are_read_by_others_and_agree(files: dict[str, str], name: str) -> None:
    document = json.loads(files[f"{name}.json"])
    assert document["schema"].startswith("blockvault.")
    rows = list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))
    told = document.get("rows") or document.get("items") or document["vaults"]
    assert len(rows) == len(told)
    for row, fields in zip(rows, told, strict=True):
        assert set(row) <= {
            column for key, value in fields.items()
            for column in ([key] + [f"{key}_{part}" for part in value] if isinstance(value, dict) else [key])
        }  # fmt: skip
        assert not any(cell.startswith(("=", "+", "@")) for cell in row.values())
