"""A bounded part of `python -m tests.reliability`: power cuts on ext4 and xfs, after syncs, at random, after success.

The full count stands in `docs/reliability.md`. Here too: that the harness finds a program that does not sync, and that
it sees every sync that the program makes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers.children import environment
from reliability import ground, syncs
from reliability.run import reliability

if TYPE_CHECKING:
    from pathlib import Path

CUTS = 25

PROGRAM = """
import sys
from reliability import syncs
syncs.arm(syncs.COUNT)
from blockvault.cli import main
assert main(["snapshot", sys.argv[1], "-q"]) == 0
print(syncs.seen())
"""


def need(*tools: str) -> None:
    lacking = ground.missing()
    if lacking:
        pytest.skip(lacking)
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.mark.root
@pytest.mark.slow
def test_power_cuts() -> None:
    need("cc")
    code, tally, told = reliability("--kills", 0, "--cuts", CUTS, "--seed", 1)
    assert (code, tally.failures) == (0, []), told
    assert tally.total("cut") == CUTS
    for end in ("cut after a sync", "cut at a random moment", "cut after success"):
        assert tally.total(end), f"no {end}"
    assert set(tally.places) == {f"cuts on {kind}{words}" for kind in ("ext4", "xfs") for words in ("", ", encrypted")}


@pytest.mark.root
@pytest.mark.slow
def test_a_program_that_does_not_sync_is_found() -> None:
    """The proof that the cuts can fail: with its syncs taken away the program loses what it said was done."""
    need("cc")
    code, tally, told = reliability("--kills", 0, "--cuts", 8, "--sabotage", "--seed", 2)
    assert code == 1, told
    ends = {failure.split(", ")[1].split(" (")[0] for failure in tally.failures}
    assert "cut after success" in ends, told


def test_every_sync_is_seen(tmp_path: Path) -> None:
    """`strace` and the preloaded library count the same: libc's calls and LMDB's writes through O_DSYNC."""
    for tool in ("cc", "strace"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(300_000))
    log = tmp_path / "log"
    calls = "fsync,fdatasync,sync,syncfs,msync,open,openat,close,pwrite64"
    child = environment(BLOCKVAULT_STATE_DIR=str(tmp_path / "state"), **syncs.environment(syncs.build(tmp_path)))
    # The library is loaded by the program, not by strace, which looks at it.
    preload = child.pop("LD_PRELOAD")
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", "-E", f"LD_PRELOAD={preload}"]
    result = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, str(image)], env=child, capture_output=True, text=True
    )
    if "ptrace" in result.stderr:
        pytest.skip("this machine does not let strace look")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == _syncs(log.read_text()) > 50


def _syncs(log: str) -> int:
    """Calls of a strace log that made bytes durable. A call that a switch of threads cut in two ends as `resumed`."""
    durable: set[str] = set()
    count = 0
    for line in log.splitlines():
        _, _, call = line.partition(" ")
        if opened := re.search(r"open(?:at)?\(.*O_D?SYNC.* = (\d+)$", call):
            durable.add(opened[1])
        elif closed := re.match(r"\s*close\((\d+)\)", call):
            durable.discard(closed[1])
        elif written := re.match(r"\s*pwrite64\((\d+),", call):
            count += written[1] in durable
        elif re.match(r"\s*(fsync|fdatasync|sync|syncfs|msync)\(", call):
            count += 1
    return count
