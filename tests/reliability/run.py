"""Calls `python -m tests.reliability` for the tests, and reads what it counted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from reliability.tally import Tally

ROOT = Path(__file__).parents[2]


def reliability(*arguments: str | int) -> tuple[int, Tally, str]:
    """Exit code, counts, and everything that it printed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tally.json"
        command = [sys.executable, "-m", "tests.reliability", *map(str, arguments), "--tally", str(file)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        tally = Tally()
        if file.exists():
            tally.load(file)
    return result.returncode, tally, result.stdout + result.stderr
