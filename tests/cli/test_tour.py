"""The recorded session of the documents is what the program does: it is recorded again and compared."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_bytes

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tour_is_what_the_program_does(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("record", ROOT / "tests" / "tour" / "record.py")
    assert spec is not None
    assert spec.loader is not None
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    tour = recorder.Tour(tmp_path)
    try:
        text = recorder.record(tour)
    finally:
        tour.close()
    written = (ROOT / "docs" / "tour.md").read_text()
    told, expected = recorder.even(text).splitlines(), recorder.even(written).splitlines()
    assert told == expected, "if the change is meant: python tests/tour/record.py --write"
