"""A kill at every named step of a repair, and a repair beside a restore and a transfer: nothing is lost by healing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import forge
from helpers.children import ForkServer, failpoint_names
from helpers.damage import flip, truncate
from helpers.files import noise, text, write_at
from helpers.site import CHUNK, Site

OURS = ("generation.", "repair.", "quarantine.", "store.mend")

REPAIR = """
def work(state):
    with vault.Vault.open(state_dir=state) as opened:
        report = opened.repair()
        return [len(report.healed), len(report.records), report.released, len(report.left)]
from blockvault import vault
"""
VERIFY = """
def work(state):
    with vault.Vault.open(state_dir=state) as opened:
        return len(opened.verify().damage)
from blockvault import vault
"""


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def damaged(site: Site) -> None:
    """Two packs with a damaged block each, in quarantine, a damaged point record: all can be healed."""
    image = site.root / "disk.img"
    image.write_bytes(text(12 * CHUNK, 1))
    site.take(image)
    write_at(image, 5 * CHUNK, noise(CHUNK, 4))
    write_at(image, 3 * CHUNK + 99, b"edited")
    site.take(image)
    for label, chunk in ((1, 9), (2, 5)):
        ((pack, slot),) = forge.places(site, label, [chunk])
        flip(forge.pack_path(site, pack), int(forge.table(site, pack).offsets[slot]) + 20)
    record = site.objects("points")[0]
    site.close()
    truncate(record, 100)


def test_a_kill_in_a_repair(children: ForkServer, make_site: Callable[..., Site]) -> None:
    site = make_site()
    damaged(site)
    assert children.run(VERIFY, site.state)["answer"] == 3
    reached = children.run(REPAIR, site.state)["reached"]
    ours = {name: count for name, count in reached.items() if name.startswith(OURS)}
    names = {name for name in failpoint_names() if name.startswith(OURS)} - {"quarantine.note"}
    assert names == set(ours), "every step of a repair is reached here"
    for name, count in {**ours, "quarantine.note": 2, "store.link": 2, "store.linked": 2}.items():
        for visit in range(1, count + 1):
            victim = make_site()
            damaged(victim)
            work = VERIFY if name == "quarantine.note" else REPAIR
            if work is REPAIR:
                children.run(VERIFY, victim.state)
            died = children.run(work, victim.state, spec=f"{name}:kill:{visit}")
            assert died["status"] == -signal.SIGKILL, f"{name} is reached {visit} times"
            done = children.run(REPAIR, victim.state)
            assert done["answer"][3] == 0, f"{name}, visit {visit}: a repair goes on where the other died"
            assert victim.vault.verify().damage == ()
            assert victim.objects("main/quarantine") == []
            assert all(len(names) == 1 for _, names in forge.session(victim).shelf.all_packs())
            victim.check_all()
            victim.close()


def test_a_disk_that_is_full_leaves_all_as_it_was(children: ForkServer, make_site: Callable[..., Site]) -> None:
    for name in ("generation.write", "store.mend", "store.sync"):
        site = make_site()
        damaged(site)
        children.run(VERIFY, site.state)
        failed = children.run(REPAIR, site.state, spec=f"{name}:enospc")
        assert failed["error"] in ("store.no-space", None) or failed["status"], name
        assert children.run(REPAIR, site.state)["answer"][3] == 0
        site.check_all()


def test_a_repair_beside_a_restore(site: Site, children: ForkServer, hook: Any) -> None:
    """The restore reads on in the generation that it opened, though it has no name any more."""
    damaged(site)
    told: list[Any] = []

    def once(name: str) -> None:
        if name == "restore.write" and not told:
            told.append(children.run(REPAIR, site.state)["answer"])

    image = site.root / "other.img"
    image.write_bytes(text(12 * CHUNK, 1)[: 8 * CHUNK])
    site.take(image)
    hook(once)
    site.check(3)
    hook(None)
    assert told == [[2, 1, 2, 0]]
    site.check_all()


def test_a_repair_beside_a_transfer(site: Site, children: ForkServer, hook: Any) -> None:
    """What the transfer refers to, as a block, as a base, as a parent's, is in the next generation too."""
    damaged(site)
    told: list[Any] = []

    def once(name: str) -> None:
        if name == "transfer.packs" and not told:
            told.append(children.run(REPAIR, site.state)["answer"])

    hook(once)
    image = site.root / "disk.img"
    write_at(image, 2 * CHUNK + 7, b"edited")
    site.take(image)
    hook(None)
    assert told
    assert told[0][3] == 0
    assert site.counters["delta_blocks"] == 1
    assert site.vault.verify().damage == ()
    site.check_all()


def test_a_second_repair_is_refused(site: Site, children: ForkServer, hook: Any) -> None:
    damaged(site)
    told: list[Any] = []

    def once(name: str) -> None:
        if name == "repair.written" and not told:
            told.append(children.run(REPAIR, site.state)["error"])

    hook(once)
    site.vault.repair()
    hook(None)
    assert told == ["vault.locked"]
    assert site.vault.verify().damage == ()


def test_a_transfer_beside_a_repair(site: Site, children: ForkServer, hook: Any) -> None:
    """A job that begins and ends between the new generation and the end of the old one."""
    damaged(site)
    image = site.root / "disk.img"
    write_at(image, 2 * CHUNK + 7, b"edited")
    take = """
def work(state, image):
    with vault.Vault.open(state_dir=state) as opened:
        return opened.snapshot([image], keep=False).number
from blockvault import vault
"""
    told: list[Any] = []

    def once(name: str) -> None:
        if name == "repair.checked" and not told:
            told.append(children.run(take, site.state, image)["answer"])

    hook(once)
    site.vault.repair()
    hook(None)
    assert told == [3]
    site.remember("3")
    assert site.vault.verify().damage == ()
    site.check_all()
