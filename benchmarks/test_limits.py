"""Memory, huge sparse images, and what `--help` costs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.measure import PROGRAM, blockvault, folder_sizes, once, run
from blockvault.units import GIB, MIB, TIB
from blockvault.workload import Churn, apply_churn

MEMORY_GOAL = "< 256 MiB"


def record_memory(benchmark: Any, anonymous_bytes: int) -> None:
    benchmark.extra_info.update(anonymous_bytes=anonymous_bytes, goal=MEMORY_GOAL)


@pytest.fixture(scope="module")
def disk(bench: Bench) -> str:
    bench.fresh("state")
    return bench.copy_of_image("disk.img")


@pytest.mark.parametrize(
    "step", ["first-point", "nothing-changed", "rewrite-20", "restore-vault", "restore-snapshot", "verify", "diff"]
)
def test_anonymous_memory(benchmark: Any, bench: Bench, disk: str, step: str) -> None:
    """The steps follow each other on one vault."""
    state, target = bench.path("state"), bench.fresh("restored.img")
    if step == "rewrite-20":
        apply_churn(disk, Churn.REWRITE_20, 1)
    command = {
        "restore-vault": ("restore", "--point", "3", "--from", "vault", "-o", target),
        "restore-snapshot": ("restore", "--point", "3", "--from", "snapshot", "-o", target),
        "verify": ("verify",),
        "diff": ("diff", "3"),
    }.get(step, ("snapshot", disk))
    done = once(benchmark, lambda: blockvault(*command, state=state, sample_memory=True))
    record_memory(benchmark, done.anonymous_bytes)
    bench.fresh("restored.img")


def test_sparse_16_tib(benchmark: Any, bench: Bench) -> None:
    """A 16 TiB image with 1 GiB of data: time, memory and space follow the data."""
    path, state = bench.fresh("huge.img"), bench.fresh("state")
    data_bytes = min(GIB, bench.data_bytes // 2)
    with open(path, "wb") as huge, open(bench.image, "rb") as source:
        try:
            huge.truncate(16 * TIB)
        except OSError:
            huge.truncate(16 * TIB - 4096)  # as large as a file can be on ext4
        size = os.fstat(huge.fileno()).st_size
        piece_bytes = 16 * MIB
        source.seek(bench.size // 8)
        pieces = data_bytes // piece_bytes
        for index in range(pieces):
            huge.seek(index * (size // pieces) // piece_bytes * piece_bytes)
            huge.write(source.read(piece_bytes))
    first = once(benchmark, lambda: blockvault("snapshot", path, "--no-keep", state=state, sample_memory=True))
    again = blockvault("snapshot", path, "--no-keep", state=state, sample_memory=True)
    target = bench.fresh("restored.img")
    restored = blockvault("restore", "--point", "2", "-o", target, state=state, sample_memory=True)
    peak = max(done.anonymous_bytes for done in (first, again, restored))
    benchmark.extra_info.update(
        size_bytes=size,
        data_bytes=data_bytes,
        seconds=first.seconds,
        again_seconds=again.seconds,
        restore_seconds=restored.seconds,
        state_bytes=folder_sizes(state)[1],
        anonymous_bytes=peak,
        goal=MEMORY_GOAL,
    )
    for name in ("huge.img", "restored.img", "state"):
        bench.fresh(name)


def test_help_cpu(benchmark: Any) -> None:
    """CPU seconds of `blockvault --help`, the least of the rounds: what it costs, not what else ran."""
    cpu: list[float] = []

    def once_more() -> None:
        cpu.append(run((*PROGRAM, "--help")).cpu_seconds)

    benchmark.pedantic(once_more, rounds=15, iterations=1)
    benchmark.extra_info.update(cpu_seconds=min(cpu), goal="< 0.12 s")
