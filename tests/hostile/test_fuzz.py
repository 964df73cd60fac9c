"""Each fuzzer for a moment, and every input that is kept: seeds that reach far, and what once did harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import fuzz
from hostile.targets import TARGETS, make

EXAMPLES = {
    "header": 250, "slots": 600, "records": 600, "envelope": 600, "tables": 200, "roots": 200, "segments": 200,
    "indexes": 250, "outlines": 400, "briefs": 400, "vaults": 12, "lmdb": 30, "sorted": 150, "host": 60,
}  # fmt: skip
SEED = 1


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name: str, fast_path: Path) -> None:
    target = make(name, fast_path)
    for data in target.seeds:
        outcome = fuzz.judge(target, data, seconds=30)
        assert not outcome.finding, outcome.finding
        assert outcome.error is None, f"a good input is refused: {outcome.error!r}"
    for file, data in fuzz.kept(name):
        outcome = fuzz.judge(target, data, seconds=30)
        assert not outcome.finding, f"{file}: {outcome.finding}"
    report = fuzz.run(target, seed=SEED, examples=EXAMPLES[name])
    for finding, data in report.findings.items():
        path = fuzz.save(Path("hostile-findings"), target, data)
        pytest.fail(f"seed {SEED}, kept in {path}: {finding}")
    assert report.executions == EXAMPLES[name]


def test_the_judge_finds_what_is_not_allowed() -> None:
    def run(data: bytes) -> None:
        if data == b"hang":
            while True:
                pass
        if data == b"memory":
            bytearray(300 << 20)[:: 1 << 12] = b"x" * (300 << 8)
        if data == b"key":
            raise KeyError(data)

    target = fuzz.Target("self", run, [b"good"])
    assert fuzz.judge(target, b"good").finding == ""
    assert "KeyError" in fuzz.judge(target, b"key").finding
    assert "more than" in fuzz.judge(target, b"hang", seconds=0.2).finding
    assert "MiB of memory" in fuzz.judge(target, b"memory").finding
