"""A failing disk, a full one, Ctrl-C at every named step: the job ends as it must, and nothing that was is touched.

The steps are those that a job, a restore and the making of a vault really pass (`blockvault/failpoints.py`); each is
made to fail at its first visit and at its last. One vault lives through all of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.children import ForkServer
from helpers.files import names_under, noise, text, write_at
from helpers.site import CHUNK, Site

ACTIONS = ("eio", "enospc", "interrupt")
CODES = {"eio": {1, 15}, "enospc": {14}, "interrupt": {130}}
# From here on the point stands: what fails is a warning.
STANDS = {"transfer.index", "transfer.indexed", "transfer.switched", "snapshot.tidied"}

WORK = """
import signal
from blockvault import vault
from blockvault.cli.exit_codes import exit_code_of
from blockvault.cli.failures import explain
from blockvault.errors import BlockVaultError
from blockvault.monitor import Monitor

def ended(do):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monitor = Monitor()
    told = {"number": None, "code": 0, "kind": None, "message": "", "raw": False}
    try:
        told["number"] = do(monitor)
        told["code"] = 3 if monitor.warnings else 0
    except (Exception, KeyboardInterrupt) as error:
        told["raw"] = not isinstance(error, (BlockVaultError, KeyboardInterrupt))
        known = explain(error)
        told.update(code=int(exit_code_of(known)), kind=known.kind, message=known.message)
    told["warnings"] = [warning.kind for warning in monitor.warnings]
    return told
"""
TAKE = (
    WORK
    + """
def work(state, image, keep):
    def do(monitor):
        with vault.Vault.open(state_dir=state) as opened:
            return opened.snapshot([image], keep=keep, monitor=monitor).number
    return ended(do)
"""
)
RESTORE = (
    WORK
    + """
def work(state, label, target, source):
    def do(monitor):
        with vault.Vault.open(state_dir=state) as opened:
            opened.restore(label, output=target, source=source, monitor=monitor)
    return ended(do)
"""
)
MAKE = (
    WORK
    + """
def work(state):
    def do(monitor):
        vault.Vault.open_or_create(state_dir=state).close()
    return ended(do)
"""
)


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def prepared(site: Site) -> Path:
    image = site.root / "disk.img"
    image.write_bytes(text(12 * CHUNK, 1).ljust(12 * CHUNK) + noise(12 * CHUNK, 2))
    site.take(image)
    change(image, 1)
    site.take(image)
    change(image, 2)
    return image


def change(image: Path, seed: int) -> None:
    """Some chunks anew, one edited (a delta), one as another is, one zeros."""
    write_at(image, (seed % 20) * CHUNK, noise(2 * CHUNK, seed))
    write_at(image, ((seed + 7) % 20) * CHUNK + 99, b"edit %d" % seed)
    write_at(image, 22 * CHUNK, image.read_bytes()[:CHUNK])
    write_at(image, 23 * CHUNK, bytes(CHUNK) if seed % 2 else noise(CHUNK, -seed))


def specs(reached: dict[str, int]) -> list[tuple[str, str, int]]:
    return [
        (name, action, visit) for name, count in reached.items() for action in ACTIONS for visit in sorted({1, count})
    ]


def assert_ended_well(told: dict[str, Any] | None, where: str, action: str) -> None:
    """In our words, with the code that the interface promises."""
    assert told is not None, f"{where}: the process died"
    assert not told["raw"], f"{where}: {told}"
    if told["kind"] is None:
        assert told["code"] in (0, 3), f"{where}: {told}"
    else:
        assert told["code"] in CODES[action], f"{where}: {told}"


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True], ids=["vault-only", "with-snapshot"])
def test_a_job(children: ForkServer, tmp_path: Path, keep: bool) -> None:
    with Site(tmp_path / "count", keep=keep) as site:
        image = prepared(site)
        site.close()
        count = children.run(TAKE, site.state, image, keep)
        assert count["answer"]["code"] == 0
    rng = random.Random(1)
    with Site(tmp_path / "site", keep=keep) as site:
        image = prepared(site)
        outcomes: dict[str, int] = {}
        for seed, (name, action, visit) in enumerate(specs(count["reached"]), start=10):
            where = f"{action} at visit {visit} of {name}"
            site.close()
            done = children.run(TAKE, site.state, image, keep, spec=f"{name}:{action}:{visit}")
            told = done["answer"]
            assert_ended_well(told, where, action)
            outcomes[str(told["kind"])] = outcomes.get(str(told["kind"]), 0) + 1
            infos = {info.label: info for info in site.vault.points()}
            in_vault = {label for label, info in infos.items() if info.point is not None}
            new = set(infos) - set(site.copies)
            assert set(site.copies) <= set(infos), where
            assert len(new) <= 1, where
            if told["kind"] is None:
                assert new == {str(told["number"])}, where
                assert new <= in_vault, where
            if name in STANDS and action != "interrupt" and done["reached"].get(name, 0) >= visit:
                assert told["kind"] is None, f"{where}: {told}"
            for label in new:
                if label in in_vault:
                    site.remember(label)
                    site.check(label)
                else:  # captured, not transferred: the next run of phase 2 takes it
                    assert keep
                    (result,) = site.vault.transfer()
                    assert str(result.number) == label
                    site.remember(label)
                    site.check(label)
            site.check(rng.choice(sorted(site.copies)))
            assert site.vault.verify(quick=True).damage == (), where
            assert not list((site.folder / "leases").iterdir()), where
            change(image, seed)
            if seed % 4 == 0:
                site.take(image)
                assert site.monitor.warnings == [], where
                site.check(max(site.copies, key=int))
                change(image, -seed)
        site.take(image)
        assert site.monitor.warnings == []
        site.sound()
        assert not list((site.folder / "tmp").iterdir())
        if keep:
            site.check(max(site.copies, key=int), source="snapshot")
        assert outcomes["job.cancelled"] > 10
        assert sum(outcomes.values()) >= 80
        site.lose_index()
        site.sound()


def test_nothing_that_a_failed_job_wrote_stays(children: ForkServer, tmp_path: Path) -> None:
    """Before the commit: no pack, no layer, no record. The steps of the snapshot tier have a test of their own."""
    with Site(tmp_path / "count") as site:
        image = prepared(site)
        site.close()
        reached = children.run(TAKE, site.state, image, False)["reached"]
        site.remember("3")
        site.close()
        before = list(reached)[: list(reached).index("transfer.commit") + 1]
        objects = names_under(site.folder / "main", site.folder / "points", site.folder / "leases", site.folder / "tmp")
        for name, action, visit in specs({name: reached[name] for name in before}):
            if name.startswith("store.") and visit > 1:
                continue  # their last visits come after the commit
            change(image, visit + len(name))
            done = children.run(TAKE, site.state, image, False, spec=f"{name}:{action}:{visit}")
            assert_ended_well(done["answer"], name, action)
            left = names_under(
                site.folder / "main", site.folder / "points", site.folder / "leases", site.folder / "tmp"
            )
            if done["answer"]["kind"] is None:
                objects = left
                site.remember(str(done["answer"]["number"]))
            assert left == objects, f"{action} at visit {visit} of {name}"
            site.close()
        site.take(image)
        site.sound()


@pytest.mark.parametrize("source", ["vault", "snapshot"])
def test_a_restore(children: ForkServer, tmp_path: Path, source: str) -> None:
    """The target is whole or not there, nothing else is left in its folder, and the place is named."""
    with Site(tmp_path / "site", keep=source == "snapshot") as site:
        image = prepared(site)
        site.take(image)
        site.close()
        reached = children.run(RESTORE, site.state, "3", tmp_path / "count.img", source)["reached"]
        assert {"blocks.read", "target.sync", "target.link", "target.linked"} - set(reached) <= (
            {"blocks.read"} if source == "snapshot" else set()
        )
        for name, action, visit in specs(reached):
            folder = tmp_path / f"out-{name}-{action}-{visit}"
            folder.mkdir()
            target = folder / "disk.img"
            done = children.run(RESTORE, site.state, "3", target, source, spec=f"{name}:{action}:{visit}")
            where = f"{action} at visit {visit} of {name}"
            assert_ended_well(done["answer"], where, action)
            if target.exists():
                assert target.read_bytes() == image.read_bytes(), where
            assert names_under(folder) <= {str(target)}, where
            if done["answer"]["kind"] is None:
                assert target.exists(), where
            elif name.startswith("target.") and action != "interrupt":
                assert str(target) in done["answer"]["message"], where
            again = children.run(RESTORE, site.state, "3", folder / "again.img", source)
            assert again["answer"]["code"] == 0
            assert (folder / "again.img").read_bytes() == image.read_bytes()
        site.sound()


def test_the_making_of_a_vault(children: ForkServer, tmp_path: Path) -> None:
    reached = children.run(MAKE, tmp_path / "count")["reached"]
    assert "host.replace" in reached
    for name, action, visit in specs(reached):
        state = tmp_path / f"{name}-{action}-{visit}"
        done = children.run(MAKE, state, spec=f"{name}:{action}:{visit}")
        where = f"{action} at visit {visit} of {name}"
        assert_ended_well(done["answer"], where, action)
        again = children.run(MAKE, state)
        assert again["answer"]["code"] == 0, f"after {where}: {again['answer']}"
        left = [path.name for path in (state / "vaults").iterdir()]
        assert left == ["default"], where


def test_an_opening_that_cannot_write_reads(children: ForkServer, tmp_path: Path) -> None:
    """Whatever is refused while a vault is opened: its points restore, in that very process."""
    with Site(tmp_path / "site") as site:
        image = prepared(site)
        site.take(image)
        site.lose_index()
        (site.host / "seen.json").unlink(missing_ok=True)
        before = children.run(RESTORE, site.state, "3", tmp_path / "count.img", "vault")["reached"]
        assert {"index.commit", "host.replace"} <= set(before)
        for name in ("index.commit", "host.replace", "host.replaced", "store.write", "store.sync", "store.link"):
            for action in ("eio", "enospc"):
                site.lose_index()
                (site.host / "seen.json").unlink(missing_ok=True)
                target = tmp_path / f"{name}-{action}.img"
                done = children.run(RESTORE, site.state, "3", target, "vault", spec=f"{name}:{action}")
                assert done["answer"]["code"] == 0, f"{action} at {name}: {done['answer']}"
                assert target.read_bytes() == image.read_bytes()
        site.sound()
