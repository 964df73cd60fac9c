"""A vault against a dictionary of plain images: any order of churn, jobs, deletes, losses, faults and kills.

The rules stand in `helpers/churn_rules.py` (images), `helpers/job_rules.py` (points), `helpers/retention_rules.py`
(holds, deletes, prune); here are losses, faults, kills, what holds after every step, and the end of a run. What the
vault must hold is told by `helpers/ledger.py`, what may lie in its packs by `helpers/stored.py`.

The run in CI is the same each time: four vaults of 210 steps (the first of them Hypothesis fills with the simplest
choices). For another one, and a longer one:

    BLOCKVAULT_STATEFUL_EXAMPLES=50 pytest -s tests/stateful/test_vault_machine.py

draws a seed, prints it, and takes `BLOCKVAULT_STATEFUL_SEED` to run that one again; each example is a vault of 300
steps (`BLOCKVAULT_STATEFUL_STEPS`).
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import ClassVar

import pytest
from helpers.children import ForkServer
from helpers.churn_rules import items
from helpers.job_rules import PACK_BYTES, places
from helpers.ledger import Known
from helpers.retention_rules import RetentionMachineRules, max_deads, retention
from helpers.stored import survey
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from blockvault import failpoints
from blockvault.clock import to_text
from blockvault.engine import packing
from blockvault.errors import BlockVaultError, CancelledError
from blockvault.model import Tier
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.vault import Vault

STEPS = (
    "store.write",
    "store.sync",
    "store.link",
    "store.linked",
    "transfer.packs",
    "transfer.layers",
    "transfer.commit",
    "transfer.committed",
    "transfer.index",
    "transfer.indexed",
    "transfer.switched",
    "digests.cell",
    "digests.sync",
    "digests.head",
    "digests.switched",
    "snapshot.raw.written",
    "snapshot.raw.saved",
    "snapshot.raw.commit",
)
PRUNE_STEPS = (
    "mark.made",
    "prune.expired",
    "prune.purged",
    "reclaim.marked",
    "reclaim.planned",
    "reclaim.condemned",
    "reclaim.waited",
    "reclaim.delete-layer",
    "reclaim.delete-pack",
    "generation.write",
    "generation.written",
    "reclaim.delete-generation",
    "reclaim.unmark",
    "reclaim.drop-record",
    "reclaim.delete-segment",
    "store.link",
    "store.linked",
)
# A step and the number of its visit; or, without a name, the number of visits of any step.
moments = st.one_of(st.tuples(st.sampled_from(STEPS), st.integers(1, 6)), st.tuples(st.none(), st.integers(1, 150)))
prune_moments = st.one_of(
    st.tuples(st.sampled_from(PRUNE_STEPS), st.integers(1, 6)), st.tuples(st.none(), st.integers(1, 150))
)
Moment = tuple[str | None, int]

# What a child does to die in the middle of: at a step, or when its time (in milliseconds) is over.
CHILD = """
import os, signal
from datetime import datetime
from blockvault import failpoints, vault
from blockvault.engine import packing
from blockvault.model import Secret
from blockvault.policy import RetentionRules

def work(state, encrypted, pack_bytes, step, visit, milliseconds, verb, *args):
    packing.PACK_BYTES = pack_bytes
    secret = Secret(key_file=bytes(range(32))) if encrypted else None
    def hook(name):
        nonlocal visit
        if step in (None, name):
            visit -= 1
            if visit == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    with vault.Vault.open(state_dir=state, secret=secret) as opened:
        if milliseconds:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        else:
            failpoints.set_hook(hook)
        {"snapshot": snapshot, "prune": prune, "restore": restore}[verb](opened, *args)
        signal.setitimer(signal.ITIMER_REAL, 0)

def snapshot(opened, item, images, keep, now):
    opened.snapshot(images, name=item, keep=keep, now=datetime.fromisoformat(now))

def prune(opened, counts, item, max_dead, now):
    plan = opened.plan_prune(RetentionRules(**counts), item=item, max_dead=max_dead, now=datetime.fromisoformat(now))
    opened.prune(plan, confirmed=True)

def restore(opened, point, disk, target):
    opened.restore(point, disk=disk, output=target, source="vault")
"""
deaths = st.one_of(
    st.tuples(st.sampled_from((*STEPS, *PRUNE_STEPS)), st.integers(1, 6), st.just(0)),
    st.tuples(st.none(), st.integers(1, 150), st.just(0)),
    st.tuples(st.none(), st.just(0), st.integers(1, 120)),
)


class Killed(BaseException):
    """The process ends here; nothing catches it but the test."""


def at(moment: Moment, act: Callable[[str], None]) -> Callable[[str], None]:
    """A hook that acts once, at that moment."""
    step, visit = moment

    def hook(name: str) -> None:
        nonlocal visit
        if step in (None, name):
            visit -= 1
            if visit == 0:
                act(name)

    return hook


def fail(number: int) -> Callable[[str], None]:
    def act(name: str) -> None:
        raise Killed(name) if number == 0 else OSError(number, os.strerror(number))

    return act


# The process is killed, the disk is full, or it fails for a moment and the same opened vault goes on.
faults = st.sampled_from([0, errno.ENOSPC, errno.EIO])


class VaultMachine(RetentionMachineRules):
    done: ClassVar[Counter[str]] = Counter()  # over all runs

    # --- losses ---

    @rule()
    def reopen(self) -> None:
        self.site.reopen()

    @rule()
    def lose_index(self) -> None:
        self.site.lose_index()

    @rule()
    def lose_digests(self) -> None:
        if (self.site.host / "digests").is_dir():
            self.site.lose_digests()

    @rule()
    def lose_host(self) -> None:
        """The host's state is gone, and with it its snapshots; it begins a new origin."""
        self.site.lose_host()
        self.ledger.lose_host()

    # --- faults in this process ---

    def run_disturbed(self, hook: Callable[[str], None], work: Callable[[], object]) -> BaseException | None:
        """Do a piece of work; what ended it, if anything did."""
        ended: BaseException | None = None
        failpoints.set_hook(hook)
        try:
            work()
        except (BlockVaultError, OSError, Killed) as error:
            ended = error
        finally:
            failpoints.set_hook(None)
        if isinstance(ended, Killed):
            self.site.reopen()
        return ended

    def settle_snapshot(self, now: datetime) -> bool:
        """Take into the ledger what a snapshot that may have been interrupted left; whether there is a new point."""
        infos = self.infos()
        new = [info for point, info in infos.items() if point not in self.ledger.points]
        assert len(new) <= 1
        for info in new:
            known = self.remember(info)
            self.check(known, "vault" if known.in_vault else "snapshot")
        self.settle_snapshots(now)
        return bool(new)

    @rule(item=items, keep=st.booleans(), moment=moments, fault=faults)
    def disturbed_snapshot(self, item: str, keep: bool, moment: Moment, fault: int) -> None:
        targets = [str(path) for path in self.images(item)]
        now = self.tick()
        ended = self.run_disturbed(
            at(moment, fail(fault)), lambda: self.site.vault.snapshot(targets, name=item, keep=keep, now=now)
        )
        assert self.settle_snapshot(now) or ended is not None

    @rule(item=items, moment=moments)
    def cancelled(self, item: str, moment: Moment) -> None:
        before = set(self.infos())
        monitor = Monitor()
        failpoints.set_hook(at(moment, lambda _: monitor.cancel()))
        try:
            self.take(item, monitor, keep=False)
        except CancelledError:
            assert set(self.infos()) == before
        finally:
            failpoints.set_hook(None)

    @rule(place=places, rules=retention, max_dead=max_deads, moment=prune_moments, fault=faults)
    def disturbed_prune(self, place: int, rules: RetentionRules, max_dead: float, moment: Moment, fault: int) -> None:
        plan, expected = self.foretell(rules, self.some_item(place), max_dead)
        ended = self.run_disturbed(at(moment, fail(fault)), lambda: self.site.vault.prune(plan, confirmed=True))
        self.settle_prune(expected, plan.now, whole=ended is None)

    # --- kills of another process; this one has the vault open all the while ---

    def run_child(self, death: tuple[str | None, int, int], verb: str, *args: object) -> bool:
        """Do a piece of work in a child that may be killed; whether it came to its end."""
        done = self.children.run(
            CHILD, self.site.state, self.site.secret is not None, self.pack_bytes, *death, verb, *args
        )
        assert done["status"] in (0, -signal.SIGKILL, -signal.SIGALRM), f"{verb} {args}: {done}"
        assert done["error"] is None
        self.done["kills"] += done["status"] != 0
        return bool(done["status"] == 0)

    @rule(item=items, keep=st.booleans(), death=deaths)
    def killed_snapshot(self, item: str, keep: bool, death: tuple[str | None, int, int]) -> None:
        now = self.tick()
        lived = self.run_child(death, "snapshot", item, [str(path) for path in self.images(item)], keep, to_text(now))
        assert self.settle_snapshot(now) or not lived

    @rule(place=places, rules=retention, max_dead=max_deads, death=deaths)
    def killed_prune(
        self, place: int, rules: RetentionRules, max_dead: float, death: tuple[str | None, int, int]
    ) -> None:
        item, now = self.some_item(place), self.tick()
        expected = self.ledger.prune(rules, item, now)
        given = {name: count for name, count in rules.counts() if count is not None}
        lived = self.run_child(death, "prune", given, item, max_dead, to_text(now))
        self.settle_prune(expected, now, whole=lived)

    @rule(place=places, death=deaths)
    def killed_restore(self, place: int, death: tuple[str | None, int, int]) -> None:
        """What is at the target's name afterwards is the whole disk, or nothing."""
        known = self.pick([known for known in self.ledger.listed() if known.in_vault], place)
        if known is None:
            return
        disk, target = next(iter(known.copies)), self.root / "killed.img"
        lived = self.run_child(death, "restore", known.id, disk, str(target))
        assert target.exists() or not lived
        if target.exists():
            assert target.stat().st_size == known.copies[disk].stat().st_size
            target.unlink()

    # --- parts that a vault may have ---

    if hasattr(Vault, "repair"):

        @rule()
        def repair(self) -> None:
            """There is nothing to be healed, whatever was killed."""
            report = self.site.vault.repair(now=self.tick())  # type: ignore[attr-defined]
            assert not report.healed
            assert not report.left

    if hasattr(Vault, "check"):

        @rule(quick=st.booleans())
        def look_it_over(self, quick: bool) -> None:
            report = self.site.vault.check(quick=quick)  # type: ignore[attr-defined]
            assert not report.damage

    @rule(anew=st.booleans())
    def rotate_keys(self, anew: bool) -> None:
        """A new data key: what is written by who opens the vault later is sealed with it, the rest stays as it is."""
        if self.site.secret is not None and hasattr(self.site.vault, "keys"):
            self.site.vault.keys.rotate(now=self.tick())
            if anew:
                self.site.reopen()

    # --- always ---

    @invariant()
    def every_point_is_as_the_ledger_says(self) -> None:
        if not hasattr(self, "site"):
            return
        self.done["steps"] += 1
        infos = self.infos()
        assert set(infos) == {known.id for known in self.there()}
        for point, info in infos.items():
            known = self.ledger.points[point]
            tiers = Tier.BOTH if known.snapshot_until else Tier.VAULT
            assert info.tier is (tiers if known.in_vault else Tier.SNAPSHOT)
            assert info.state.held == known.held
            assert (info.state.deleted is None) == (known.deleted is None)
            if known.purge_after is not None and info.state.purge_after is not None:
                assert abs(known.purge_after - info.state.purge_after) < timedelta(minutes=1)

    @invariant()
    def some_point_restores(self) -> None:
        if not hasattr(self, "site"):
            return
        there = [known for known in self.ledger.listed() if known.in_vault]
        if there:
            self.check(random.Random(self.done["steps"]).choice(there), "vault")

    # --- the end ---

    def check_everything(self) -> None:
        for known in self.ledger.listed():
            self.check(known, "vault")
            if known.snapshot_until is not None:
                self.check(known, "snapshot")
        assert self.site.vault.verify().damage == ()

    def teardown(self) -> None:
        try:
            failpoints.set_hook(None)
            if hasattr(self, "site"):
                self.finish()
        finally:
            packing.PACK_BYTES = PACK_BYTES
            if hasattr(self, "site"):
                self.site.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def finish(self) -> None:
        """Every point restores; what is pruned leaves exactly what the others need; at the end nothing is left."""
        self.transfer()
        for known in self.ledger.roots():
            if known.deleted is not None:
                self.site.vault.undelete_point(known.id, now=self.tick())
                self.ledger.undelete(known)
        self.check_everything()
        self.prune_now(RetentionRules(keep_last=3, keep_monthly=2), None, 0.0)
        self.days_pass(15)
        self.prune_now(RetentionRules(), None, 0.0)
        self.every_point_is_as_the_ledger_says()
        self.check_everything()
        self.end_all(self.ledger.roots())

    def end_all(self, roots: list[Known]) -> None:
        for known in roots:
            if known.held:
                self.site.vault.unhold(known.id, now=self.tick())
            self.site.vault.delete_point(known.id, purge=True, now=self.tick())
            self.ledger.end(known)
        self.prune_now(RetentionRules(), None, 0.0)
        assert not survey(self.site.vault._session).held
        assert not self.infos()


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.mark.slow
def test_a_vault_is_a_dictionary_of_images(children: ForkServer) -> None:
    examples = os.environ.get("BLOCKVAULT_STATEFUL_EXAMPLES")
    common = settings(
        deadline=None,
        database=None,
        print_blob=True,
        stateful_step_count=210,
        suppress_health_check=list(HealthCheck),
    )
    VaultMachine.children = children
    if examples is None:
        run_state_machine_as_test(
            VaultMachine,
            # To make a failure smaller takes longer than to understand it: the steps are printed as they were.
            settings=settings(common, max_examples=4, derandomize=True, phases=[Phase.generate]),
        )
        return
    number = int(os.environ.get("BLOCKVAULT_STATEFUL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nBLOCKVAULT_STATEFUL_SEED={number}")
    steps = int(os.environ.get("BLOCKVAULT_STATEFUL_STEPS") or 300)
    longer = settings(common, max_examples=int(examples), stateful_step_count=steps)
    machine = seed(number)(VaultMachine)
    try:
        run_state_machine_as_test(machine, settings=longer)
    finally:
        print(f"\n{VaultMachine.done['steps']} steps, {VaultMachine.done['kills']} processes killed")
