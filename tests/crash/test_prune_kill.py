"""A kill at every step of `prune` and of the marks: every root restores, the next prune frees all that one would have.

One vault with every kind of thing to be freed is made once and copied for each kill: a plain copy of a vault's folder
together with its host's state, both where they were, so that it is the same vault. The names of the steps are counted
in a run that nothing disturbs; its end is what the vault must come to after every kill, too.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.children import ForkServer, failpoint_names
from helpers.files import copy_tree, noise, text, write_at
from helpers.needed import filled, needed_by, nothing_is_left, purge, roots
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.ids import PackName
from blockvault.store import condemned

VISITS_MAX = 4  # of one name

PRUNE = """
def work(state, key):
    from datetime import datetime, UTC
    from blockvault.model import Secret
    from blockvault.policy import RetentionRules
    secret = Secret(key_file=bytes.fromhex(key)) if key else None
    with vault.Vault.open(state_dir=state, secret=secret) as opened:
        plan = opened.plan_prune(RetentionRules(keep_last=2), max_dead=0.0)
        done = opened.prune(plan, confirmed=True)
        return [done.expired, done.purged, str(done.problem or "")]
from blockvault import vault
"""
MARK = """
def work(state, verb, label):
    with vault.Vault.open(state_dir=state) as opened:
        if verb == "purge":
            opened.delete_point(label, purge=True)
        else:
            {"delete": opened.delete_point, "undelete": opened.undelete_point, "hold": opened.hold,
             "unhold": opened.unhold}[verb](label)
from blockvault import vault
"""


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


class Stage:
    """The vault as it is before each kill; `reset` brings it back."""

    def __init__(self, root: Path, *, encrypted: bool, days: int) -> None:
        self.key = KEY_FILE.key_file.hex() if encrypted and KEY_FILE.key_file else ""
        self.site = Site(root / "site", secret=KEY_FILE if encrypted else None)
        site = self.site
        site.close()
        shutil.rmtree(site.state)
        from blockvault.vault import Vault

        site._vault = Vault.create(
            state_dir=str(site.state), chunk_size=CHUNK, secret=site.secret, soft_delete_days=days
        )
        image, other, third = site.root / "disk.img", site.root / "other.img", site.root / "third.img"
        image.write_bytes(text(20 * CHUNK, 1))
        other.write_bytes(noise(3 * CHUNK, 2))
        site.take(image)
        site.take(other)
        third.write_bytes(noise(2 * CHUNK, 3))
        site.take(third)
        for number in range(4):
            write_at(image, 5 * CHUNK, noise(CHUNK, 100 + number))  # dead with its point
            write_at(image, (8 + number) * CHUNK, noise(CHUNK, 200 + number))  # lives on
            write_at(image, 3 * CHUNK + 7, b"edit %d" % number)
            site.take(image)
        write_at(other, 0, noise(CHUNK, 4))
        site.take(other)
        purge(site, 2, 3)  # of the first some slots live on, the second is dead as a whole
        site.vault.delete_point("5")
        site.close()
        self._kept = root / "kept"
        copy_tree(site.state, self._kept)
        self._copies = dict(site.copies)

    def reset(self) -> None:
        """Files are written over in place, so that the folder is the same one: the header keeps inode and time."""
        site = self.site
        site.close()
        for path in sorted(site.state.rglob("*"), reverse=True):
            if path.name != "vault.json":
                path.rmdir() if path.is_dir() and not any(path.iterdir()) else path.is_dir() or path.unlink()
        for path in sorted(self._kept.rglob("*")):
            target = site.state / path.relative_to(self._kept)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            elif path.name != "vault.json":
                shutil.copy2(path, target)
        site.copies = dict(self._copies)

    def prune(self, children: ForkServer, spec: str | None = None) -> dict[str, object]:
        return children.run(PRUNE, self.site.state, self.key, spec=spec)

    def every_root_restores(self, where: str) -> None:
        """Those that are deleted softly, too: they are brought back for it."""
        site = self.site
        listed = {info.label for info in site.vault.points(deleted=True)}
        assert listed <= set(self._copies), where
        needed = needed_by(site, roots(site))
        there = filled(site)
        assert all(slots <= there[pack] for pack, slots in needed.items()), where
        for info in site.vault.points(deleted=True):
            if info.state.is_listed:
                site.check(info.label)
        assert site.vault.verify().damage == (), where

    def end(self) -> tuple[set[str], dict[PackName, set[int]]]:
        """What the vault has come to: labels of its points, and filled slots."""
        nothing_is_left(self.site)
        points = {info.label for info in self.site.vault.points(deleted=True)}
        return points, filled(self.site)


@pytest.mark.slow
@pytest.mark.parametrize(("encrypted", "days"), [(False, 0), (True, 14)], ids=["at-once", "encrypted-soft-delete"])
def test_a_kill_in_a_prune(tmp_path: Path, children: ForkServer, encrypted: bool, days: int) -> None:
    stage = Stage(tmp_path, encrypted=encrypted, days=days)
    whole = stage.prune(children)
    assert (whole["status"], whole["error"]) == (0, None)
    reached = whole["reached"]
    assert isinstance(reached, dict)
    undisturbed = stage.end()
    killed = 0
    for name, visits in reached.items():
        if not encrypted or name.split(".")[0] in ("reclaim", "generation", "prune"):
            for visit in sorted({1, 2, visits // 2, visits} - {0})[:VISITS_MAX]:
                if visit > visits:
                    continue
                stage.reset()
                where = f"killed at visit {visit} of {name}"
                died = stage.prune(children, f"{name}:kill:{visit}")
                assert died["status"] == -signal.SIGKILL, where
                killed += 1
                stage.every_root_restores(where)
                stage.site.close()
                again = stage.prune(children)
                assert (again["status"], again["error"]) == (0, None), where
                assert again["answer"][2] == "", where  # type: ignore[index]
                assert stage.end() == undisturbed, where
    assert killed > 15
    stage.every_root_restores("at the end")
    stage.site.close()


@pytest.mark.parametrize("verb", ["delete", "purge", "undelete", "hold", "unhold"])
def test_a_kill_while_a_point_is_marked(site: Site, children: ForkServer, verb: str) -> None:
    """The mark is there whole or not at all, and the same command can be given again."""
    image = site.root / "disk.img"
    image.write_bytes(text(10 * CHUNK, 1))
    site.take(image)
    write_at(image, 0, noise(CHUNK, 1))

    def prepared() -> str:
        write_at(image, CHUNK, noise(CHUNK, len(site.objects("points"))))
        label = str(site.take(image).number)
        if verb == "undelete":
            site.vault.delete_point(label)
        elif verb == "unhold":
            site.vault.hold(label)
        return label

    label = prepared()
    site.close()
    reached = children.run(MARK, site.state, verb, label)["reached"]
    assert "mark.made" in reached
    killed = 0
    for name, visits in reached.items():
        for visit in range(1, min(visits, 3) + 1):
            label = prepared()
            site.close()
            died = children.run(MARK, site.state, verb, label, spec=f"{name}:kill:{visit}")
            assert died["status"] in (-signal.SIGKILL, 0)  # opening writes more or less: a name may not come as often
            killed += died["status"] != 0
            state = forge_state(site, label)
            assert not state.uncertain
            again = children.run(MARK, site.state, verb, label)
            assert again["error"] in (None, *DONE_ALREADY[verb]), f"after a kill at visit {visit} of {name}"
            site.reopen()
            state = forge_state(site, label)
            assert REACHED[verb](state), f"after a kill at visit {visit} of {name}"
            if state.is_root:
                site.check(label) if state.is_listed else None
            else:
                site.copies.pop(label, None)
    assert killed >= 5


def forge_state(site: Site, label: str):  # type: ignore[no-untyped-def]
    """The state of a point, as the objects tell it."""
    from blockvault.model import PointRef

    catalog = site.vault._session.catalog
    catalog.refresh()
    return catalog.state(PointRef(site.vault.origin, int(label)))


DONE_ALREADY = {
    "delete": ("point.deleted",),
    "purge": ("point.not-found",),
    "undelete": ("point.not-deleted",),
    "hold": (),
    "unhold": ("point.not-held",),
}
REACHED: dict[str, Callable[..., bool]] = {
    "delete": lambda state: state.is_root and state.deleted is not None,
    "purge": lambda state: not state.is_root,
    "undelete": lambda state: state.is_listed,
    "hold": lambda state: state.is_listed and state.held,
    "unhold": lambda state: state.is_listed and not state.held,
}


@pytest.mark.slow
def test_every_step_of_prune_is_reached(tmp_path: Path, children: ForkServer) -> None:
    """A name that is new in the sources is killed at in one of the tests here, or this fails."""
    stage = Stage(tmp_path, encrypted=False, days=0)
    reached = stage.prune(children)["reached"]
    assert isinstance(reached, dict)
    stage.site.close()
    ours = {name for name in failpoint_names() if name.startswith(("prune.", "mark.", "reclaim.", "generation."))}
    assert ours - set(reached) == {"reclaim.round"}, "a round is written only beside running work: see below"


def test_a_kill_when_a_round_is_written(site: Site, children: ForkServer) -> None:
    """Markers are there and nobody knows for whom they wait: then it is for all who are at work later."""
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    site.take(image)
    image.write_bytes(noise(4 * CHUNK, 2))
    site.take(image)
    purge(site, 1)
    (point,) = roots(site)
    session = site.vault._session
    with session.reading([point]):
        with session.lease("transfer", "disk", []):
            for spec in ("reclaim.condemned:kill:1", "reclaim.round:kill:1"):
                died = children.run(PRUNE_ONLY, site.state, spec=spec)
                assert died["status"] == -signal.SIGKILL
        told = children.run(PRUNE_ONLY, site.state)
        assert told["answer"][0] == 0, "the reader was at work then"
        assert told["answer"][1] > 0
    assert condemned.markers(session.store, session.keys)
    assert children.run(PRUNE_ONLY, site.state)["answer"][1] == 0
    nothing_is_left(site)
    site.sound()


PRUNE_ONLY = """
def work(state):
    from datetime import datetime, UTC
    from blockvault.engine.reclaim import Reclaimer
    from blockvault.monitor import Monitor
    with vault.Vault.open(state_dir=state) as opened:
        done = Reclaimer(opened._session, Monitor()).run(datetime.now(UTC), max_dead=0.0)
        return [done.deleted_packs, done.waiting_objects]
from blockvault import vault
"""
