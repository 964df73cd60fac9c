"""A kill at every named step of the program: every completed point restores, no half point is listed, work goes on.

The names are read out of the sources, so a new one cannot be forgotten: it is reached by the work done here, or it
belongs to a part of the program that has a kill test of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import ForkServer, failpoint_names
from helpers.files import keep_copy, names_under, noise, text, write_at
from helpers.site import CHUNK, Site

# Parts of the program that have files of their own in tests/crash.
OTHERS = (
    "snapshot.",
    "hook.",
    "job.",
    "environment.",
    "audit.",
    "in-place.",
    "restore.mended",
    "mark.",
    "prune.",
    "reclaim.",
    "generation.",
    "key.",
    "repair.",
    "quarantine.",
    "store.mend",
    "sorted.",
)

TAKE = """
def work(state, image):
    with vault.Vault.open(state_dir=state) as opened:
        return opened.snapshot([image], keep=False).number
from blockvault import vault
"""
RESTORE = """
def work(state, label, target):
    with vault.Vault.open(state_dir=state) as opened:
        opened.restore(label, output=target, source="vault")
from blockvault import vault
"""


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def prepared(site: Site) -> Path:
    image = site.root / "disk.img"
    image.write_bytes(text(12 * CHUNK, 1) + noise(12 * CHUNK, 2))
    site.take(image)
    return image


def change(image: Path, seed: int) -> None:
    """Some chunks anew, one edited (a delta), one the same as before elsewhere (a dedup hit), one zeros."""
    write_at(image, (seed % 20) * CHUNK, noise(2 * CHUNK, seed))
    write_at(image, ((seed + 7) % 20) * CHUNK + 99, b"edit %d" % seed)
    write_at(image, 22 * CHUNK, image.read_bytes()[:CHUNK])
    write_at(image, 23 * CHUNK, bytes(CHUNK) if seed % 2 else noise(CHUNK, -seed))


def visits(children: ForkServer, root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """How often each name is reached by a transfer and by a restore that nothing disturbs."""
    with Site(root / "count") as site:
        image = prepared(site)
        change(image, 1)
        site.close()
        take = children.run(TAKE, site.state, image)
        assert take["error"] is None
        restore = children.run(RESTORE, site.state, "2", site.root / "out.img")
        assert restore["error"] is None
        return take["reached"], restore["reached"]


def test_every_name_is_reached_here_or_has_a_test_of_its_own(children: ForkServer, tmp_path: Path) -> None:
    take, restore = visits(children, tmp_path)
    forgotten = {name for name in failpoint_names() - set(take) - set(restore) if not name.startswith(OTHERS)}
    assert not forgotten


@pytest.mark.slow
def test_a_kill_in_a_transfer(children: ForkServer, tmp_path: Path) -> None:
    """One vault lives through a kill at every visit of every name, with churn between."""
    take, _ = visits(children, tmp_path)
    committed = {"transfer.committed", "transfer.index", "transfer.indexed", "transfer.switched"}
    with Site(tmp_path / "site") as site:
        image = prepared(site)
        places = [(name, visit) for name, count in take.items() for visit in range(1, count + 1)]
        for seed, (name, visit) in enumerate(places):
            change(image, 10 + seed)
            site.close()
            before = set(site.copies)
            died = children.run(TAKE, site.state, image, spec=f"{name}:kill:{visit}")
            where = f"killed at visit {visit} of {name}"
            # A name may be visited less often than in the count: threads share the work.
            assert died["status"] in (-signal.SIGKILL, 0), where
            found = {info.label for info in site.vault.points()}
            assert before <= found, where
            new = found - before
            assert len(new) <= 1, where
            if name in committed and died["status"]:
                assert new, f"{where}: the commit stands"
            for label in new:
                site.remember(label)
                site.check(label)
            if seed % 5 == 0:
                change(image, 1000 + seed)
                site.take(image)
        site.take(image)
        site.sound()
        assert not list((site.folder / "leases").iterdir()), "the leases of the dead are gone"
        assert not list((site.folder / "tmp").iterdir())
        site.lose_index()
        site.sound()


def test_a_kill_in_a_restore(children: ForkServer, tmp_path: Path) -> None:
    """The target is there whole or not at all, and nothing else is left in its folder."""
    _, restore = visits(children, tmp_path)
    with Site(tmp_path / "site") as site:
        image = prepared(site)
        change(image, 1)
        site.take(image)
        site.close()
        for name in restore:
            for visit in range(1, restore[name] + 1):
                folder = tmp_path / f"out-{name}-{visit}"
                folder.mkdir()
                target = folder / "disk.img"
                died = children.run(RESTORE, site.state, "2", target, spec=f"{name}:kill:{visit}")
                assert died["status"] in (-signal.SIGKILL, 0)
                if target.exists():
                    assert target.read_bytes() == image.read_bytes()
                assert names_under(folder) <= {str(target)}
        site.sound()


def test_a_kill_while_a_vault_is_made(children: ForkServer, tmp_path: Path) -> None:
    """Half a vault is never met: it comes into being whole, and the next attempt makes it."""
    work = """
def work(state):
    with vault.Vault.open_or_create(state_dir=state) as opened:
        return opened.path
from blockvault import vault
"""
    count = children.run(work, tmp_path / "count")
    for name in count["reached"]:
        for visit in range(1, count["reached"][name] + 1):
            state = tmp_path / f"{name}-{visit}"
            died = children.run(work, state, spec=f"{name}:kill:{visit}")
            assert died["status"] == -signal.SIGKILL
            again = children.run(work, state)
            assert (again["status"], again["error"]) == (0, None), f"after a kill at visit {visit} of {name}"


def test_a_first_point_that_was_killed_leaves_an_empty_vault(children: ForkServer, tmp_path: Path) -> None:
    for name in ("store.linked", "transfer.packs", "transfer.layers", "transfer.commit"):
        with Site(tmp_path / name) as site:
            image = site.root / "disk.img"
            image.write_bytes(noise(8 * CHUNK, 1))
            keep_copy(image, site.root / "aside")
            site.close()
            assert children.run(TAKE, site.state, image, spec=name)["status"] == -signal.SIGKILL
            assert site.vault.points() == []
            assert site.vault.verify().damage == ()
            site.take(image)
            site.sound()
