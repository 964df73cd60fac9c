"""Rules of a Hypothesis machine that hold, delete, bring back and prune points, each foretold by the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from blockvault.errors import BlockVaultError, InvalidInputError, NotFoundError
from blockvault.model import Protection, PrunePlan
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from helpers.job_rules import JobRules, places
from helpers.ledger import Expected, Known
from helpers.stored import check_clean

counts = st.one_of(st.none(), st.none(), st.integers(1, 4))
retention = st.builds(
    RetentionRules,
    keep_last=counts,
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    keep_yearly=counts,
)
max_deads = st.sampled_from([0.0, 0.0, 0.05, 0.6, 1.0])


class RetentionMachineRules(JobRules):
    """What ends points, and what keeps them from it."""

    def there(self) -> list[Known]:
        return [known for known in self.ledger.points.values() if not known.gone]

    @rule(place=places)
    def hold(self, place: int) -> None:
        known = self.pick(self.there(), place)
        if known is None:
            return
        if not known.in_vault:
            with pytest.raises(NotFoundError, match="only a snapshot"):
                self.site.vault.hold(known.id)
            return
        assert self.site.vault.hold(known.id, reason="the auditors come", now=self.tick()).state.held
        known.held = True

    @rule(place=places)
    def unhold(self, place: int) -> None:
        known = self.pick(self.ledger.roots(), place)
        if known is None:
            return
        now = self.tick()
        if not known.held:
            with pytest.raises(InvalidInputError, match="is not held"):
                self.site.vault.unhold(known.id, now=now)
            return
        assert not self.site.vault.unhold(known.id, now=now).state.held
        self.ledger.unhold(known, now)

    @rule(place=places, purge=st.booleans())
    def delete(self, place: int, purge: bool) -> None:
        known = self.pick(self.there(), place)
        if known is None:
            return
        now = self.tick()
        if known.held or (known.deleted is not None and not purge):
            with pytest.raises(BlockVaultError) as refused:
                self.site.vault.delete_point(known.id, purge=purge, now=now)
            assert refused.value.kind in ("point.held", "point.deleted", "point.marked-meanwhile")
            return
        self.site.vault.delete_point(known.id, purge=purge, now=now)
        if purge or not known.in_vault:
            self.ledger.end(known)
        else:
            self.ledger.delete(known, now)

    @rule(place=places)
    def undelete(self, place: int) -> None:
        known = self.pick(self.ledger.roots(), place)
        if known is None:
            return
        now = self.tick()
        if known.deleted is None:
            with pytest.raises(InvalidInputError, match="is not deleted"):
                self.site.vault.undelete_point(known.id, now=now)
            return
        self.site.vault.undelete_point(known.id, now=now)
        self.ledger.undelete(known)

    # --- prune ---

    def foretell(self, rules: RetentionRules | None, item: str | None, max_dead: float) -> tuple[PrunePlan, Expected]:
        """The vault's plan, held against the ledger's."""
        now = self.tick()
        expected = self.ledger.prune(rules, item, now)
        plan = self.site.vault.plan_prune(rules, item=item, max_dead=max_dead, now=now)
        ids = {info.point.ref: info.id for info in self.infos().values() if info.point is not None}
        assert {ids[decision.ref] for decision in plan.decisions if decision.keep} == expected.kept
        assert {ids[decision.ref] for decision in plan.decisions if not decision.keep} == expected.expired
        assert {ids[ref] for ref, _ in plan.purges} == expected.purged
        assert set(plan.emptied_items) == expected.emptied
        doubt = self.clock_is_in_doubt(expected, now)
        assert doubt is None or bool(plan.clock_doubt) == doubt
        return plan, expected

    def clock_is_in_doubt(self, expected: Expected, now: datetime) -> bool | None:
        """Whether points would end although no point was taken for more than two intervals.

        None: so near to the bound that it depends on when points were committed, by the real clock.
        """
        taken = sorted(known.taken for known in self.ledger.roots() if known.in_vault)
        if not (expected.expired or expected.purged):
            return False
        gaps = [later - earlier for earlier, later in pairwise(taken[-20:])]
        left = now - taken[-1] - 2 * max([timedelta(days=1), *([median(gaps)] if gaps else [])])
        return None if abs(left) < timedelta(hours=1) else left > timedelta(0)

    def settle_prune(self, expected: Expected, now: datetime, *, whole: bool) -> None:
        """Take into the ledger what a prune did; if it was not interrupted, that is all of what it was to do."""
        infos = self.infos()
        purged = {point for point in expected.purged if point not in infos}
        expired = {point for point in expected.expired if point not in infos or infos[point].state.deleted is not None}
        if whole:
            assert purged == expected.purged
        if whole or purged:
            assert expired == expected.expired, "points were purged before all were expired"
        for point in expired:
            self.ledger.delete(self.ledger.points[point], now)
        for point in purged:
            self.ledger.end(self.ledger.points[point])

    def prune_now(self, rules: RetentionRules | None, item: str | None, max_dead: float) -> None:
        """A prune that nothing disturbs; afterwards the vault holds what its points need."""
        plan, expected = self.foretell(rules, item, max_dead)
        half_done = bool(self.site.objects("main/condemned"))
        result = self.site.vault.prune(plan, confirmed=True)
        assert result.problem is None
        assert not result.reclaim.waiting_objects
        assert len(result.expired) == len(expected.expired)
        assert len(result.purged) == len(expected.purged)
        self.settle_prune(expected, plan.now, whole=True)
        if half_done and max_dead == 0.0:
            # What an interrupted run had condemned was carried out as it was; what died since goes with the next run.
            self.site.vault.prune(
                self.site.vault.plan_prune(RetentionRules(), item=item, max_dead=max_dead, now=plan.now), confirmed=True
            )
        check_clean(self.site.vault._session, self.site.folder, exact=max_dead == 0.0)

    def some_item(self, place: int) -> str | None:
        choices = [None, *sorted({known.item for known in self.ledger.points.values()})]
        return choices[place % len(choices)]

    @rule(place=places, rules=st.none() | retention, max_dead=max_deads)
    def prune(self, place: int, rules: RetentionRules | None, max_dead: float) -> None:
        self.prune_now(rules, self.some_item(place), max_dead)

    # --- policies ---

    @rule(place=places, rules=retention, protection=st.sampled_from([None, Protection.PROTECTED, Protection.STOPPED]))
    def assign(self, place: int, rules: RetentionRules, protection: Protection | None) -> None:
        """A policy of its own for an item; what the vault says would expire by it is what the ledger says."""
        item = self.some_item(place)
        vault = self.site.vault
        if item is None or item not in {each.name for each in vault.items()}:
            return
        now = self.tick()
        number = len(vault.policies())
        policy = vault.create_policy(Policy(f"p-{number}", Schedule.hourly(1), rules), now=now)
        before = self.ledger.prune(None, item, now).kept
        becomes_stopped = protection is Protection.STOPPED or (protection is None and item in self.ledger.stopped)
        self.ledger.policies[item] = rules
        (self.ledger.stopped.add if becomes_stopped else self.ledger.stopped.discard)(item)
        after = self.ledger.prune(None, item, now).kept
        ids = {info.point.ref: info.id for info in self.infos().values() if info.point is not None}
        change = vault.plan_assignment([item], policy.name, protection=protection, now=now)
        assert {ids[decision.ref] for decision in change.expired} == before - after
        (assigned,) = vault.assign_policy([item], policy.name, protection=protection, confirmed=True, now=now)
        assert (assigned.protection is Protection.STOPPED) is becomes_stopped

    @rule(place=places, rules=retention)
    def set_policy(self, place: int, rules: RetentionRules) -> None:
        item = self.some_item(place)
        if item not in self.ledger.policies:
            return
        vault, now = self.site.vault, self.tick()
        policy = vault.policy_of(item)
        assert policy is not None
        assert policy.retention == self.ledger.policies[item]
        before = self.ledger.prune(None, item, now).kept
        self.ledger.policies[item] = rules
        after = self.ledger.prune(None, item, now).kept
        change = vault.set_policy(policy.name, retention=rules, confirmed=True, now=now)
        ids = {info.point.ref: info.id for info in self.infos().values() if info.point is not None}
        assert {ids[decision.ref] for decision in change.expired} == before - after

    @rule(place=places, rules=retention)
    def prune_unasked(self, place: int, rules: RetentionRules) -> None:
        """What must be confirmed is not done without; a plan is not carried out twice."""
        plan, expected = self.foretell(rules, self.some_item(place), 0.6)
        if not plan.emptied_items and not plan.clock_doubt:
            self.site.vault.prune(plan)
            self.settle_prune(expected, plan.now, whole=True)
            return
        before = self.infos()
        with pytest.raises(InvalidInputError) as refused:
            self.site.vault.prune(plan)
        assert refused.value.kind in ("prune.last-point", "prune.clock")
        assert self.infos() == before
