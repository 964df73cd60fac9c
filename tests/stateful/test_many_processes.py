"""Several processes work on one vault at random: take, restore, delete, hold, prune, verify, all at the same time.

Nothing is soft: what is deleted ends at once, every prune rewrites every pack of which anything is dead, packs hold
a few blocks, and the images are made of few chunks, so that blocks are met again while they are condemned. The
processes dawdle at steps of transfer and reclaim. Afterwards the vault holds exactly what the points left need.

The run in CI is of one seed; how processes interleave differs each time. For a longer one:

    BLOCKVAULT_PROCESSES_OPERATIONS=1000 pytest -s tests/stateful/test_many_processes.py
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import worker
from helpers.files import first_difference
from helpers.site import Site
from helpers.stored import check_clean

PROCESSES = 4
PACK_BYTES = 5 * 16_384
OPERATIONS = int(os.environ.get("BLOCKVAULT_PROCESSES_OPERATIONS") or 60)
SEED = int(os.environ.get("BLOCKVAULT_STATEFUL_SEED") or 1)

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["helpers.worker"])


class Running:
    """A process at work."""

    def __init__(self, site: Site, folder: Path, number: int, seed: int, operations: int) -> None:
        self._pipe, theirs = _children.Pipe(duplex=False)
        order = {
            "state": str(site.state),
            "folder": str(folder),
            "number": number,
            "seed": seed,
            "operations": operations,
            "pack_bytes": PACK_BYTES,
        }
        self.process = _children.Process(target=worker.work, args=(theirs, order))
        self.process.start()
        theirs.close()

    def told(self) -> str | None:
        """The outcome of its next operation; None when it has ended well, or was killed."""
        try:
            text: str = self._pipe.recv()
        except EOFError:
            return None
        assert "Traceback" not in text, text
        return text or None

    def kill(self) -> list[str]:
        """Kill it; what it told before that nobody has read."""
        self.process.kill()
        self.process.join()
        rest = []
        while (text := self.told()) is not None:
            rest.append(text)
        self._pipe.close()
        return rest


def check_whole(site: Site, folder: Path) -> int:
    """Every point restores to its copy, before and after a prune that leaves exactly what they need; how many."""
    for number in range(PROCESSES):
        one = worker.Worker(str(site.state), str(folder), number, 0, 0, PACK_BYTES)
        one.vault = site.vault
        one.settle()
    for _ in range(2):
        infos = site.vault.points()
        for info in infos:
            target = folder / "whole.img"
            site.vault.restore(info.id, output=str(target), source="vault")
            at = first_difference(target, folder / f"{info.id}.copy")
            target.unlink()
            assert at is None, f"point {info.label} ({info.id}) of item {info.item}: wrong from byte {at} on"
        assert site.vault.verify().damage == ()
        # One that was interrupted may have condemned less of a pack than is dead by now: hence two.
        for _ in range(2):
            result = site.vault.prune(site.vault.plan_prune(max_dead=0.0), confirmed=True)
            assert result.problem is None
        check_clean(site.vault._session, site.folder, exact=True)
    numbers = [info.number for info in infos]
    assert len(set(numbers)) == len(numbers)
    return len(infos)


@pytest.mark.slow
def test_many_processes_work_on_one_vault(tmp_path: Path) -> None:
    with Site(tmp_path / "site", soft_delete_days=0) as site:
        site.close()
        running = [Running(site, tmp_path, number, SEED * 100 + number, OPERATIONS) for number in range(PROCESSES)]
        outcomes: Counter[str] = Counter()
        try:
            for one in running:
                while (text := one.told()) is not None:
                    outcomes[text] += 1
        finally:
            for one in running:
                one.process.kill()
                one.process.join()
        print("", *sorted(outcomes.items()), sep="\n")
        assert outcomes.total() == PROCESSES * OPERATIONS
        assert outcomes["prune: freed"]
        assert check_whole(site, tmp_path)


@pytest.mark.slow
def test_many_processes_are_killed(tmp_path: Path) -> None:
    """The same, while one after the other is killed in the middle of something and begun anew."""
    rng = random.Random(SEED)
    kills = OPERATIONS // 2
    with Site(tmp_path / "site", soft_delete_days=0) as site:
        site.close()
        running = [Running(site, tmp_path, number, number, 10_000) for number in range(PROCESSES)]
        outcomes: Counter[str] = Counter()
        try:
            for seed in range(kills):
                number = rng.randrange(PROCESSES)
                for _ in range(rng.randint(1, 4)):
                    text = running[number].told()
                    assert text is not None
                    outcomes[text] += 1
                time.sleep(rng.uniform(0, 0.1))
                outcomes.update(running[number].kill())
                running[number] = Running(site, tmp_path, number, 1000 + seed, 10_000)
        finally:
            for one in running:
                outcomes.update(one.kill())
        print("", kills, *sorted(outcomes.items()), sep="\n")
        assert check_whole(site, tmp_path)
