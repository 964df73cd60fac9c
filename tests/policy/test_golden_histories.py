"""Years of points, kept and expired as the golden files say, and as the oracle says.

The files are made by `python tests/policy/regenerate.py` and were read line by line.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from helpers import retention_oracle
from policy_schedules import History, histories, render

from blockvault.policy import plan

FOLDER = Path(__file__).parent / "golden"
HISTORIES = {history.name: history for history in histories()}


def test_every_file_has_its_history() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.txt" for name in HISTORIES}
    assert len(HISTORIES) == len(histories())


@pytest.mark.parametrize("name", sorted(HISTORIES))
def test_it_is_as_the_golden_file_says(name: str) -> None:
    golden, made = (FOLDER / f"{name}.txt").read_text(), render(HISTORIES[name])
    assert not list(difflib.unified_diff(golden.splitlines(), made.splitlines(), "golden", "now", lineterm="", n=1))
    assert golden == made


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_it_is_as_the_oracle_says(history: History) -> None:
    made = plan(history.points, history.rules, history.now)
    assert retention_oracle.outcome_of(made) == retention_oracle.expected(history.points, history.rules, history.now)
    assert len(made.decisions) == len(history.points)
