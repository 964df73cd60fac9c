"""Whole processes, start of Python included, against what the system's own tools do with the same image."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.measure import blockvault, in_turns, run

needs_zstd = pytest.mark.skipif(not shutil.which("zstd"), reason="the program zstd is not installed")
KEEPING = pytest.mark.parametrize("keeping", [(), ("--no-keep",)], ids=["with-snapshot", "vault-only"])


def cat(image: str) -> None:
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["cat", image], stdout=nowhere, check=True)


def forget(path: str) -> None:
    """Take a file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_with_sync(source: str, target: str) -> None:
    run(["cp", "--sparse=never", "--reflink=never", source, target])
    run(["sync", target])


@needs_zstd
@KEEPING
def test_first_point_against_zstd(benchmark: Any, bench: Bench, keeping: tuple[str, ...]) -> None:
    def clean() -> None:
        bench.fresh("state")
        bench.fresh("image.zst")

    in_turns(
        benchmark,
        lambda: blockvault("snapshot", bench.image, *keeping, state=bench.path("state")),
        lambda: run(["zstd", "-1", "-T2", "-q", bench.image, "-o", bench.path("image.zst")]),
        ceiling_name="zstd -1 -T2 IMAGE -o FILE",
        byte_count=bench.size,
        rounds=max(3, bench.rounds - 2),
        prepare=clean,
        goal=">= 0.8" if keeping else None,
    )
    clean()


def test_first_point_encrypted_against_plain(benchmark: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What encryption costs: the same point into a vault under a passphrase and into one without encryption."""
    monkeypatch.setenv("BLOCKVAULT_PASSWORD", "a passphrase to measure with")

    def make() -> None:
        for name, options in (("encrypted", ()), ("plain", ("--no-encryption",))):
            blockvault("vault", "create", name, *options, state=bench.fresh(f"state-{name}"))

    def take(name: str) -> None:
        blockvault("snapshot", bench.image, "--no-keep", "--vault", name, state=bench.path(f"state-{name}"))

    in_turns(
        benchmark,
        lambda: take("encrypted"),
        lambda: take("plain"),
        ceiling_name="the same without encryption",
        byte_count=bench.size,
        rounds=bench.rounds,
        prepare=make,
        goal=">= 0.85",
    )
    bench.fresh("state-encrypted")
    bench.fresh("state-plain")


@KEEPING
def test_nothing_changed_against_cat(benchmark: Any, bench: Bench, keeping: tuple[str, ...]) -> None:
    state = bench.fresh("state")
    blockvault("snapshot", bench.image, *keeping, state=state)
    in_turns(
        benchmark,
        lambda: blockvault("snapshot", bench.image, *keeping, state=state),
        lambda: cat(bench.image),
        ceiling_name="cat IMAGE >/dev/null",
        byte_count=bench.size,
        rounds=bench.rounds,
        goal="<= 1.5",
        slowdown=True,
    )
    bench.fresh("state")


def test_nothing_changed_cold_against_cat(benchmark: Any, bench: Bench) -> None:
    state = bench.fresh("state")
    blockvault("snapshot", bench.image, "--no-keep", state=state)

    def cold(work: Callable[[], object]) -> None:
        forget(bench.image)
        work()

    in_turns(
        benchmark,
        lambda: cold(lambda: blockvault("snapshot", bench.image, "--no-keep", state=state)),
        lambda: cold(lambda: cat(bench.image)),
        ceiling_name="cat IMAGE >/dev/null, cold as well",
        byte_count=bench.size,
        rounds=bench.rounds,
        goal="<= 1.0",
        slowdown=True,
    )
    bench.fresh("state")


@pytest.mark.parametrize("tier", ["vault", "snapshot"])
def test_restore_against_copy(benchmark: Any, bench: Bench, tier: str) -> None:
    state = bench.fresh("state")
    blockvault("snapshot", bench.image, state=state)
    target = bench.path("restored.img")

    def clean() -> None:
        bench.fresh("restored.img")
        bench.fresh("copied.img")

    in_turns(
        benchmark,
        lambda: blockvault("restore", "--point", "1", "--from", tier, "-o", target, state=state),
        lambda: copy_with_sync(bench.image, bench.path("copied.img")),
        ceiling_name="cp --sparse=never; sync",
        byte_count=bench.size,
        rounds=bench.rounds,
        prepare=clean,
        goal=">= 0.85" if tier == "vault" else None,
    )
    run(["cmp", bench.image, target])
    clean()
    bench.fresh("state")


def test_verify_against_cat(benchmark: Any, bench: Bench) -> None:
    state = bench.fresh("state")
    blockvault("snapshot", bench.image, "--no-keep", state=state)
    in_turns(
        benchmark,
        lambda: blockvault("verify", state=state),
        lambda: cat(bench.image),
        ceiling_name="cat IMAGE >/dev/null",
        byte_count=bench.size,
        rounds=max(3, bench.rounds - 2),
        slowdown=True,
    )
    bench.fresh("state")
