"""What a vault grows by for each byte that changed, model by model.

Changed bytes are pages changed times 4,096. Stored bytes are the growth of the whole vault folder: packs, layers,
records, index segments, LMDB; once as sizes of files, once as what they take on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.conftest import SEED, Bench
from benchmarks.measure import blockvault, folder_sizes, once, run
from blockvault.workload import Churn, apply_churn

GOALS = {Churn.RANDOM_PAGES: "<= 0.6", Churn.SMALL_EDITS: "<= 0.15"}


@pytest.fixture(scope="module", params=[(), ("--no-keep",)], ids=["with-snapshot", "vault-only"])
def begun(request: pytest.FixtureRequest, bench: Bench) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """A copy of the image that changes from model to model, and a state folder with its first point."""
    disk, state, keeping = bench.copy_of_image("disk.img"), bench.fresh("state"), request.param
    blockvault("snapshot", disk, *keeping, state=state)
    yield disk, state, keeping
    for name in ("disk.img", "state"):
        bench.fresh(name)


@pytest.mark.parametrize("model", list(Churn))
def test_stored_per_changed(
    benchmark: Any, bench: Bench, begun: tuple[str, str, tuple[str, ...]], model: Churn
) -> None:
    """The models follow each other on one vault, as the days of a guest do."""
    disk, state, keeping = begun
    vault = f"{state}/vaults/default"
    churn = apply_churn(disk, model, SEED)
    before = folder_sizes(vault)
    done = once(benchmark, lambda: blockvault("snapshot", disk, *keeping, "--json", state=state))
    after = folder_sizes(vault)
    summary = json.loads(done.output.splitlines()[-1])
    stored, on_disk = after[0] - before[0], after[1] - before[1]
    benchmark.extra_info.update(
        model=model.value,
        pages_changed=churn.pages_changed,
        page_bytes_changed=churn.changed_bytes,
        chunk_bytes_changed=summary["changed_bytes"],
        stored_bytes=stored,
        stored_disk_bytes=on_disk,
        stored_per_changed=stored / churn.changed_bytes if churn.changed_bytes else None,
        stored_disk_per_changed=on_disk / churn.changed_bytes if churn.changed_bytes else None,
        goal=GOALS.get(model),
        seconds=done.seconds,
    )
    target = bench.fresh("restored.img")
    blockvault("restore", "--point", str(summary["point"]), "--from", "vault", "-o", target, state=state)
    run(["cmp", disk, target])
    bench.fresh("restored.img")
