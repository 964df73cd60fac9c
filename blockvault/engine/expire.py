"""Ending points: by hand and by retention. A point ends in two steps, and only the second cannot be taken back.

    delete    a mark: the point is out of the lists, `undelete` brings it back (soft delete)
    purge     a mark, when its soft-delete days are over: it is no root any more, reclaim may take what only it needs

Invariants (R19):
- A hold beats everything: what is held, or may be (a mark cannot be read), is neither expired nor purged.
- A purge is made only on exactly the marks on which it was decided: a hold made at the same moment makes it fail.
- Time is the earlier of the host's clock and the store's; where it lies far beyond the newest record the plan says
  so, and is carried out only when confirmed: a clock that jumped must not end years of points.
- Where records that this host has seen are gone, one may have been a hold, or a point whose blocks would be freed: that
  has to be confirmed, too.
- Nothing ends of an item whose expiry is held, by hand of the caller: it has seen in what was written a sign of harm.
- A plan is carried out once, and each of its steps looks at the point again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from types import MappingProxyType

from blockvault.clock import to_text, utc_now
from blockvault.engine.reclaim import Reclaimer
from blockvault.engine.session import Session
from blockvault.errors import BlockVaultError, ConflictError, InternalError, InvalidInputError, NotFoundError
from blockvault.failpoints import reach
from blockvault.ids import ItemId
from blockvault.model import (
    Mark,
    MarkKind,
    Point,
    PointInfo,
    PointRef,
    PointState,
    PruneDecision,
    PrunePlan,
    PruneResult,
    ReclaimResult,
)
from blockvault.monitor import Monitor
from blockvault.policy import RetentionPlan, RetentionPoint, RetentionRules, keep_all, plan

INTERVAL_LEAST = timedelta(days=1)
GAPS_LOOKED_AT = 20
ROLLED_BACK = "vault.rolled-back"  # of what opening noticed: records that this host has seen are gone

# What is kept of an item, by its id: rules, or in words why nothing of it expires.
RulesOfItem = Callable[[ItemId], RetentionRules | str]
_NONE_HELD: Mapping[ItemId, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _ItemDecided:
    """What retention says of an item, and the states of its points, deleted ones too."""

    item_id: ItemId
    name: str
    plan: RetentionPlan
    states: dict[PointRef, PointState]


class Expirer:
    """Puts marks on the points of one vault, and carries out retention."""

    def __init__(self, session: Session, monitor: Monitor) -> None:
        self._session = session
        self._catalog = session.catalog
        self._monitor = monitor

    # --- one point, by hand ----------------------------------------------------------------------------------

    def hold(self, info: PointInfo, reason: str, now: datetime) -> PointState:
        """Keep a point whatever the rules say."""
        return self._mark(info, Mark(MarkKind.HOLD, now, reason), lambda _: None)

    def unhold(self, info: PointInfo, now: datetime) -> PointState:
        """Lift a hold."""

        def check(state: PointState) -> None:
            if not state.held:
                raise _refused("point.not-held", f"point {info.label} is not held", "nothing was changed")

        return self._mark(info, Mark(MarkKind.UNHOLD, now), check)

    def delete(self, info: PointInfo, reason: str, now: datetime, *, purge: bool) -> PointState:
        """Delete a point; with `purge` for good, else it may be brought back for the vault's soft-delete days."""
        days = 0 if purge else self._session.soft_delete_days

        def check(state: PointState) -> None:
            if state.held:
                raise _refused(
                    "point.held",
                    f"point {info.label} is held and was not deleted",
                    state.held_reason or "a hold beats every other wish",
                    f"lift the hold first: `blockvault point unhold {info.label}`",
                )
            if state.deleted is not None and not purge:
                raise _refused(
                    "point.deleted",
                    f"point {info.label} is deleted already",
                    f"it can be brought back until {_day(state.purge_after)}",
                    f"`blockvault point undelete {info.label}`",
                )

        state = self._state(info)
        if state.deleted is None or not purge:
            mark = Mark(MarkKind.DELETE, now, reason, until=now + timedelta(days=days))
            state = self._mark(info, mark, check)
        if purge:
            state = self._mark(info, Mark(MarkKind.PURGE, now, reason), _must_be_purgeable(None))
            self._drop_snapshot(self._ref(info))
        return state

    def undelete(self, info: PointInfo, now: datetime) -> PointState:
        """Bring a deleted point back."""

        def check(state: PointState) -> None:
            if state.deleted is None:
                raise _refused("point.not-deleted", f"point {info.label} is not deleted", "nothing was changed")

        return self._mark(info, Mark(MarkKind.UNDELETE, now), check)

    def _ref(self, info: PointInfo) -> PointRef:
        if info.point is None:
            raise NotFoundError(
                "point.not-in-vault",
                f"point {info.label} is only a snapshot",
                why="marks lie in the vault, beside the point's record",
                do="run `blockvault transfer` first",
            )
        return info.point.ref

    def _state(self, info: PointInfo) -> PointState:
        return self._catalog.state(self._ref(info))

    def _mark(self, info: PointInfo, mark: Mark, check: Callable[[PointState], None]) -> PointState:
        self._session.check_writable()

        def checked(state: PointState) -> None:
            if not state.is_root:
                raise NotFoundError(
                    "point.ended",
                    f"point {info.label} is gone",
                    why="it was purged meanwhile" if state.ended is MarkKind.PURGE else "its writer took it back",
                    do="see `blockvault points`",
                )
            check(state)

        return self._put(self._ref(info), mark, checked)

    def _put(self, ref: PointRef, mark: Mark, check: Callable[[PointState], None]) -> PointState:
        return self._catalog.put_mark(ref, replace(mark, by=self._session.host_label), check)

    def _drop_snapshot(self, ref: PointRef) -> None:
        """A purged point's snapshot on this host goes with it."""
        if ref.origin != self._session.origin:
            return
        for record in self._session.tier.records():
            if record.number == ref.number:
                try:
                    self._session.tier.remove(record)
                except (ConflictError, NotFoundError):
                    continue  # a capture runs: it goes when its days are over

    # --- retention -------------------------------------------------------------------------------------------

    def decide(
        self,
        rules: RetentionRules | RulesOfItem,
        *,
        items: Collection[str] | None = None,
        labels: dict[PointRef, str],
        now: datetime,
    ) -> list[PruneDecision]:
        """What retention says of every point that is listed, or of those of some items, and why; by item and time."""
        decided = self._items_decided(rules, items=items, moment=self._moment(now))
        decisions = [told for one in decided for told in _told(one, labels)]
        return sorted(decisions, key=lambda decision: (decision.item, decision.taken, decision.ref))

    def _items_decided(
        self, rules: RetentionRules | RulesOfItem, *, items: Collection[str] | None, moment: datetime
    ) -> Iterator[_ItemDecided]:
        by_item: dict[ItemId, list[Point]] = defaultdict(list)
        for point in self._catalog.points() if items is None else self._points_of(items):
            by_item[point.item_id].append(point)
        for item_id, points in by_item.items():
            newest = max(points, key=lambda point: point.taken)
            known = self._catalog.item(item_id)
            name = known.name if known else newest.item_name
            if items is not None and name not in items:
                continue
            states = {point.ref: self._catalog.state(point.ref) for point in points}
            listed = [
                RetentionPoint(point.ref, point.taken, _may_be_held(states[point.ref]), point.retain_until)
                for point in points
                if states[point.ref].is_listed
            ]
            wanted = rules if isinstance(rules, RetentionRules) else rules(item_id)
            decided = keep_all(listed, wanted, moment) if isinstance(wanted, str) else plan(listed, wanted, moment)
            yield _ItemDecided(item_id, name, decided, states)

    def _points_of(self, items: Collection[str]) -> list[Point]:
        """The points of these items, and perhaps more: no other records are decoded than those that may be theirs."""
        ids = {item.id for item in self._catalog.items() if item.name in items}
        refs = [brief.ref for brief in self._catalog.briefs() if brief.item_id in ids or brief.item_name in items]
        self._catalog.read(refs)
        return [point for ref in refs if (point := self._catalog.record(ref)) is not None]

    def plan(
        self,
        rules: RetentionRules | RulesOfItem,
        *,
        item: str | None,
        labels: dict[PointRef, str],
        max_dead: float,
        now: datetime,
        held_items: Mapping[ItemId, str] = _NONE_HELD,
    ) -> PrunePlan:
        """What `prune` would expire, purge and free; nothing is changed.

        Args:
            rules: what to keep of each item: the same of all, or asked for each.
            item: expire and purge only points of the item of that name.
            labels: what points are called, by their names.
            max_dead: see `Reclaimer.plan`.
            now: the host's clock.
            held_items: why nothing of these items is expired or purged, not even what was deleted long ago.
        """
        moment = self._moment(now)
        self._catalog.refresh()
        decisions: list[PruneDecision] = []
        emptied: list[str] = []
        purges: list[PointRef] = []
        wanted = _holding(rules, held_items)
        for one in self._items_decided(wanted, items=None if item is None else [item], moment=moment):
            if one.plan.expires_all:
                emptied.append(one.name)
            decisions += _told(one, labels)
            if one.item_id in held_items:
                continue
            expired = {point.ref for point in one.plan.expired}
            at_once = expired if not self._session.soft_delete_days else set()
            purges += [ref for ref, state in one.states.items() if _is_due(state, moment) or ref in at_once]
        decisions.sort(key=lambda decision: (decision.item, decision.taken, decision.ref))
        freeable = Reclaimer(self._session, self._monitor).plan(max_dead, without=purges)
        return PrunePlan(
            decisions=tuple(decisions),
            purges=tuple((ref, labels.get(ref, str(ref.number))) for ref in sorted(purges)),
            emptied_items=tuple(sorted(emptied)),
            freeable_bytes=freeable.freeable_bytes,
            left_dead_bytes=freeable.left_dead_bytes,
            clock_doubt=self._clock_doubt(moment) if purges or any(not each.keep for each in decisions) else "",
            soft_delete_days=self._session.soft_delete_days,
            max_dead=max_dead,
            now=moment,
            vanished="; ".join(each.message for each in self._session.notices if each.kind == ROLLED_BACK),
        )

    def execute(self, plan: PrunePlan, *, confirmed: bool) -> PruneResult:
        """Carry a plan out, once: expire, purge, reclaim.

        `problem` of the result is what ended the reclaim, if something did: what was expired and purged stays so.

        Raises:
            InvalidInputError: the plan would end all points of an item, the clock is in doubt, or records vanished, and
                it is not `confirmed` (`prune.last-point`, `prune.clock`, `prune.records-gone`); nothing was changed.
        """
        self._session.check_writable()
        if plan.used:
            raise InternalError("prune.plan-used", "a plan of prune was carried out already")
        plan.used = True
        if not confirmed:
            for refusal in doubts_of(plan):
                raise refusal
        result = PruneResult()
        until = plan.now + timedelta(days=plan.soft_delete_days)
        for decision in plan.decisions:
            if not decision.keep:
                self._monitor.check()
                mark = Mark(MarkKind.DELETE, plan.now, f"expired: {'; '.join(decision.reasons)}", until=until)
                if self._try(decision.ref, mark, _must_be_listed):
                    result.expired.append(decision.label)
        reach("prune.expired")
        for ref, label in plan.purges:
            self._monitor.check()
            if self._try(ref, Mark(MarkKind.PURGE, plan.now), _must_be_purgeable(plan.now)):
                result.purged.append(label)
                self._drop_snapshot(ref)
        reach("prune.purged")
        try:
            result.reclaim = Reclaimer(self._session, self._monitor).run(plan.now, max_dead=plan.max_dead)
        except (ConflictError, BlockVaultError) as error:
            if not isinstance(error, ConflictError) and not error.kind.startswith("reclaim."):
                raise
            result.reclaim = ReclaimResult()
            result.problem = error
        return result

    def _try(self, ref: PointRef, mark: Mark, check: Callable[[PointState], None]) -> bool:
        """Put a mark, unless the point is not any more what the plan saw: then it is left for the next time."""
        try:
            self._put(ref, mark, check)
        except ConflictError as error:
            self._monitor.note(f"point {ref.number} is left for the next time: {error.message}")
            return False
        return True

    def _moment(self, now: datetime) -> datetime:
        """`now`, set back by as much as the host's clock is ahead of the store's."""
        if self._session.index is None:
            return now  # a vault that cannot be written: nothing will be ended
        ahead = utc_now().timestamp() - self._session.store.now()
        return now - timedelta(seconds=max(0.0, ahead))

    def _clock_doubt(self, moment: datetime) -> str:
        """Why `moment` may be wrong: more than two intervals lie between it and the newest record; "" if not."""
        taken = sorted(point.taken for point in self._catalog.points())
        if not taken:
            return ""
        newest = max([*taken, *(point.committed for point in self._catalog.points())])
        recent = taken[-GAPS_LOOKED_AT:]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(recent)]
        interval = max(INTERVAL_LEAST.total_seconds(), median(gaps) if gaps else 0.0)
        if (moment - newest).total_seconds() <= 2 * interval:
            return ""
        return f"the newest point in the vault is of {_day(newest)}, and now is {_day(moment)}"


def doubts_of(plan: PrunePlan) -> list[InvalidInputError]:
    """What a plan must not do unasked, each as the error that it is where nobody can be asked."""
    found = [
        InvalidInputError(
            "prune.last-point",
            f"no point would be left of item '{item}'",
            why="the rules, or the points' own retain-until dates, keep none of them",
            do="look with --dry-run --explain; if that is what you want, add --yes",
        )
        for item in plan.emptied_items
    ]
    if plan.vanished:
        found.append(
            InvalidInputError(
                "prune.records-gone",
                "records of this vault are gone: points that are not listed, or holds, would be lost for good",
                why=plan.vanished,
                do="put them back from a copy of the vault; if they are not wanted, add --yes",
            )
        )
    if plan.clock_doubt:
        found.append(
            InvalidInputError(
                "prune.clock",
                "this machine's clock may be wrong, and points would end by it",
                why=plan.clock_doubt,
                do="check the date; if it is right, add --yes",
            )
        )
    return found


def _told(decided: _ItemDecided, labels: dict[PointRef, str]) -> Iterator[PruneDecision]:
    for decision in decided.plan.decisions:
        ref = decision.point.ref
        reasons = tuple(str(reason) for reason in decision.reasons)
        label = labels.get(ref, str(ref.number))
        yield PruneDecision(ref, label, decided.name, decision.point.taken, decision.keep, reasons)


def _holding(rules: RetentionRules | RulesOfItem, held_items: Mapping[ItemId, str]) -> RetentionRules | RulesOfItem:
    """The same rules, but for items whose expiry is held."""
    if not held_items:
        return rules

    def rules_of(item_id: ItemId) -> RetentionRules | str:
        held = held_items.get(item_id)
        return held or (rules if isinstance(rules, RetentionRules) else rules(item_id))

    return rules_of


def _may_be_held(state: PointState) -> bool:
    return state.held or state.uncertain


def _is_due(state: PointState, moment: datetime) -> bool:
    """Whether a deleted point's days are over."""
    after = state.purge_after
    return state.is_root and after is not None and not _may_be_held(state) and after <= moment


def _must_be_listed(state: PointState) -> None:
    if not state.is_listed or _may_be_held(state):
        raise ConflictError("point.marked-meanwhile", "it was held or deleted meanwhile")


def _must_be_purgeable(moment: datetime | None) -> Callable[[PointState], None]:
    """The check of a purge: deleted, not held, and, where a moment is given, its days over."""

    def check(state: PointState) -> None:
        if state.uncertain:
            raise ConflictError(
                "point.uncertain",
                "a point was not purged: one of its marks is missing or cannot be read",
                why="it may have been a hold",
                do="put the folder marks/ back from a copy of the vault",
            )
        if state.deleted is None or state.held or (moment is not None and not _is_due(state, moment)):
            raise ConflictError(
                "point.marked-meanwhile",
                "a point was not purged: it was held or brought back meanwhile",
                do="look at it with `blockvault point show`",
            )

    return check


def _refused(kind: str, message: str, why: str, do: str | None = None) -> InvalidInputError:
    return InvalidInputError(kind, message, why=why, do=do)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else to_text(moment.astimezone(UTC))[:16].replace("T", " ") + " UTC"
