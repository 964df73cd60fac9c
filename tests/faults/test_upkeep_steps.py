"""EIO, a full disk and Ctrl-C at every named step of what frees, heals and changes keys: nothing is lost, all goes on.

The steps are those that each really passes; each is made to fail at its first visit and at its last, and one vault
lives through all of it. What ran is then run again without a fault, and must leave what it always leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.test_every_step import CODES, WORK, specs
from helpers import forge
from helpers.children import ForkServer
from helpers.damage import flip
from helpers.files import noise, text, write_at
from helpers.needed import purge, reclaim
from helpers.site import CHUNK, KEY_FILE, Site
from helpers.stored import check_clean

PRUNE = (
    WORK
    + """
def work(state):
    def do(monitor):
        with vault.Vault.open(state_dir=state) as opened:
            plan = opened.plan_prune(max_dead=0.0, monitor=monitor)
            done = opened.prune(plan, confirmed=True, monitor=monitor)
            if done.problem is not None:
                raise done.problem
            return len(done.purged)
    return ended(do)
"""
)
REPAIR = (
    WORK
    + """
def work(state):
    def do(monitor):
        with vault.Vault.open(state_dir=state) as opened:
            return len(opened.repair(monitor=monitor).healed)
    return ended(do)
"""
)
ROTATE = (
    WORK
    + """
from blockvault.clock import utc_now
from blockvault.model import Secret
def work(state):
    def do(monitor):
        with vault.Vault.open(state_dir=state, secret=Secret(key_file=bytes(range(32)))) as opened:
            return opened.keys.rotate(now=utc_now())
    return ended(do)
"""
)


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def assert_ended_well(told: dict[str, Any] | None, where: str, action: str) -> None:
    """With the code that the interface promises, and in words; some steps stand where nothing is read or written."""
    assert told is not None, f"{where}: the process died"
    assert told["message"] or told["kind"] is None, f"{where}: {told}"
    assert told["code"] in ((0, 3) if told["kind"] is None else CODES[action]), f"{where}: {told}"


def something_dies(site: Site, image: Path, seed: int) -> None:
    """A pack and a layer that nobody needs any more, and one of which a part is dead."""
    write_at(image, 3 * CHUNK, noise(4 * CHUNK, seed))
    first = site.take(image).number
    write_at(image, 3 * CHUNK, noise(2 * CHUNK, -seed))
    site.take(image)
    write_at(image, 8 * CHUNK, noise(CHUNK, 7 * seed))
    last = site.take(image).number
    purge(site, first, last)


@pytest.mark.slow
def test_prune_and_reclaim(children: ForkServer, tmp_path: Path) -> None:
    with Site(tmp_path / "site", soft_delete_days=0) as site:
        image = site.root / "disk.img"
        image.write_bytes(text(12 * CHUNK, 1))
        site.take(image)
        something_dies(site, image, 1)
        site.close()
        count = children.run(PRUNE, site.state)
        assert count["answer"]["code"] == 0
        assert {"reclaim.condemned", "reclaim.delete-pack", "reclaim.delete-layer"} <= set(count["reached"])
        ended: dict[str, int] = {}
        for seed, (name, action, visit) in enumerate(specs(count["reached"]), start=10):
            where = f"{action} at visit {visit} of {name}"
            something_dies(site, image, seed)
            site.close()
            told = children.run(PRUNE, site.state, spec=f"{name}:{action}:{visit}")["answer"]
            assert_ended_well(told, where, action)
            ended[str(told["kind"])] = ended.get(str(told["kind"]), 0) + 1
            site.check(max(site.copies, key=int))
            assert site.vault.verify(quick=True).damage == (), where
            reclaim(site, 0.0)
            check_clean(forge.session(site), site.folder, exact=True)
            if len(site.copies) > 6:
                purge(site, *sorted(site.copies, key=int)[1:-2])
        site.sound()
        assert ended["job.cancelled"] > 10
        assert sum(ended.values()) > 60


def test_repair(children: ForkServer, tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        image = site.root / "disk.img"
        image.write_bytes(text(12 * CHUNK, 1))
        site.take(image)

        def spoil(chunk: int) -> None:
            ((pack, slot),) = forge.places(site, 1, [chunk])
            flip(forge.pack_path(site, pack), int(forge.table(site, pack).offsets[slot]) + 20)
            site.close()

        spoil(1)
        count = children.run(REPAIR, site.state)
        assert count["answer"]["number"] == 1
        assert {"generation.write", "repair.written", "repair.checked"} <= set(count["reached"])
        for number, (name, action, visit) in enumerate(specs(count["reached"])):
            where = f"{action} at visit {visit} of {name}"
            spoil(1 + number % 11)
            told = children.run(REPAIR, site.state, spec=f"{name}:{action}:{visit}")["answer"]
            assert_ended_well(told, where, action)
            site.vault.repair()
            assert site.vault.verify().damage == (), where
            site.check(1)
            site.close()
        assert site.objects("main/quarantine") == []
        assert all(len(names) == 1 for _, names in forge.session(site).shelf.all_packs())


def test_key_rotate(children: ForkServer, tmp_path: Path) -> None:
    with Site(tmp_path / "site", secret=KEY_FILE) as site:
        image = site.root / "disk.img"
        image.write_bytes(text(6 * CHUNK, 1))
        site.take(image)
        site.close()
        count = children.run(ROTATE, site.state)
        assert count["answer"]["code"] == 0
        assert "key.rotating" in count["reached"]
        for seed, (name, action, visit) in enumerate(specs(count["reached"])):
            where = f"{action} at visit {visit} of {name}"
            told = children.run(ROTATE, site.state, spec=f"{name}:{action}:{visit}")["answer"]
            assert_ended_well(told, where, action)
            write_at(image, (seed % 6) * CHUNK, noise(CHUNK, seed))
            site.take(image)
            site.check(max(site.copies, key=int))
            site.close()
        site.sound()
