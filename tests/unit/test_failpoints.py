"""A failpoint does nothing unless asked, and exactly what was asked otherwise."""

import os
import signal
import subprocess
import sys

import pytest

from blockvault import failpoints

PROGRAM = """
from blockvault import failpoints
for name in ("a", "b", "a", "b"):
    try:
        failpoints.reach(name)
        print("passed", name, flush=True)
    except OSError as error:
        print("refused", name, error.errno, flush=True)
    except KeyboardInterrupt:
        print("interrupted", name, flush=True)
"""


def run(spec: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "BLOCKVAULT_FAILPOINT"}
    if spec is not None:
        environment["BLOCKVAULT_FAILPOINT"] = spec
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


def test_nothing_happens_unasked() -> None:
    assert run(None).stdout.split("\n")[:-1] == ["passed a", "passed b", "passed a", "passed b"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("b:enospc", ["passed a", "refused b 28", "passed a", "passed b"]),
        ("a:eio:2", ["passed a", "passed b", "refused a 5", "passed b"]),
        ("b:interrupt", ["passed a", "interrupted b", "passed a", "passed b"]),
        ("c:eio", ["passed a", "passed b", "passed a", "passed b"]),
    ],
)
def test_the_named_visit_is_refused(spec: str, expected: list[str]) -> None:
    assert run(spec).stdout.split("\n")[:-1] == expected


@pytest.mark.parametrize("spec", ["b", "b:kill"])
def test_kill_is_a_kill(spec: str) -> None:
    result = run(spec)
    assert result.returncode == -signal.SIGKILL
    assert result.stdout.split("\n")[:-1] == ["passed a"]


def test_an_unknown_action_is_told() -> None:
    assert "none of kill" in run("a:explode").stderr


def test_a_hook_sees_the_names_and_is_taken_back() -> None:
    seen: list[str] = []
    before = failpoints.set_hook(seen.append)
    try:
        failpoints.reach("x.y")
    finally:
        assert failpoints.set_hook(before) == seen.append
    failpoints.reach("x.z")
    assert seen == ["x.y"]
