"""A kill at every step at which entries of the dedup index move: every point restores, no hit is lost, nothing is left.

The share of LMDB is tiny, so that each commit moves it, and merges what lies there.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import forge
from helpers.children import ForkServer, failpoint_names
from helpers.files import noise
from helpers.site import CHUNK, Site

from blockvault.store import index as index_module

OURS = {"sorted.sync", "sorted.written", "sorted.listed", "index.commit"}
SHARE = 8
CHUNKS = 16

TAKE = """
def work(state, image, share):
    from blockvault.store import index
    index.LMDB_ENTRIES = share
    with vault.Vault.open(state_dir=state) as opened:
        return opened.snapshot([image], keep=False).number
from blockvault import vault
"""
REBUILD = """
def work(state, image, share):
    from blockvault.store import index
    index.LMDB_ENTRIES = share
    with vault.Vault.open(state_dir=state) as opened:
        opened._session.rebuild_index()
from blockvault import vault
"""


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def begun(make_site: Callable[..., Site]) -> tuple[Site, Path]:
    """Two points in two segments, and an image that a third one is to be taken of."""
    site = make_site()
    image = site.root / "disk.img"
    for seed in (1, 2):
        image.write_bytes(noise(CHUNKS * CHUNK, seed))
        site.take(image)
    image.write_bytes(noise(CHUNKS * CHUNK, 3))
    site.close()
    return site, image


def every_hit(site: Site) -> None:
    """All full blocks of all packs are found where they lie."""
    index = forge.session(site).index
    assert index is not None
    for pack in forge.packs(site):
        table = forge.table(site, pack)
        assert index.find_blocks(table.ids) == [(pack, slot) for slot in range(table.slot_count)]
    listed = {Path(segment.path) for segment in index._sorted}
    assert set((site.folder / "lmdb").glob("sorted-*")) >= listed


@pytest.mark.parametrize("work", [TAKE, REBUILD], ids=["transfer", "made anew"])
def test_a_kill_while_entries_move(
    children: ForkServer, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    monkeypatch.setattr(index_module, "LMDB_ENTRIES", SHARE)
    site, image = begun(make_site)
    reached = children.run(work, site.state, image, SHARE)["reached"]
    ours = {name: count for name, count in reached.items() if name in OURS}
    assert set(ours) == OURS
    assert {name for name in failpoint_names() if name.startswith("sorted.")} < OURS
    for name, count in ours.items():
        for visit in range(1, count + 1):
            victim, image = begun(make_site)
            died = children.run(work, victim.state, image, SHARE, spec=f"{name}:kill:{visit}")
            where = f"killed at visit {visit} of {name}"
            assert died["status"] == -signal.SIGKILL, where
            for label in {info.label for info in victim.vault.points()} - set(victim.copies):
                victim.remember(label)
            victim.sound()
            victim.take(image)
            every_hit(victim)
            last = victim.root / "last.img"
            last.write_bytes(noise(CHUNKS * CHUNK, 9))
            victim.take(last)  # moves once more, and tidies
            every_hit(victim)
            index = forge.session(victim).index
            assert index is not None
            listed = {Path(segment.path) for segment in index._sorted}
            assert set((victim.folder / "lmdb").glob("sorted-*")) == listed, where
            twin = Path(shutil.copyfile(image, victim.root / "twin.img"))
            victim.take(twin)
            assert victim.counters["blocks_known"] == CHUNKS, where
            victim.sound()
            victim.close()
            shutil.rmtree(victim.root)


def test_a_disk_that_fails_while_entries_move(children: ForkServer, make_site: Callable[..., Site]) -> None:
    """The point is safe, and so are the entries, in LMDB: the job ends with a warning."""
    for action in ("enospc", "eio", "interrupt"):
        site, image = begun(make_site)
        done = children.run(TAKE, site.state, image, SHARE, spec=f"sorted.sync:{action}")
        assert done["error"] in (None, "job.interrupted"), action
        assert list((site.folder / "lmdb").glob("sorted-*")) == [], action
        for label in {info.label for info in site.vault.points()} - set(site.copies):
            site.remember(label)
        every_hit(site)
        site.sound()
