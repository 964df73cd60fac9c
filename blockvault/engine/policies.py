"""Policies of a vault: finding, making, changing and deleting them, and which items they apply to.

Invariants:
- A change is the next revision of the policy's record; deleting is a revision that says so. Two writers cannot both
  make one revision: on one host the lock `policies` keeps them apart, on several the second is refused.
- A policy that items use is not deleted; they are moved to another one first, under the same lock.
- A policy whose newest revision cannot be read, or that is gone, expires nothing: an earlier one never stands in.
- A change that would expire points that are kept as things are is made only when it is confirmed, and is noted in its
  record.
- Where `policies` and `items` are both held, `policies` was taken first.

A vault without a policy `default` offers one; it is written when it is first assigned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from blockvault.clock import local_zone_name
from blockvault.engine.expire import Expirer, RulesOfItem
from blockvault.engine.items import Items
from blockvault.engine.listing import Listing
from blockvault.engine.session import Session
from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
)
from blockvault.ids import ItemId
from blockvault.model import Item, Protection, PruneDecision
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.policy.periods import zone_named
from blockvault.policy.policies import (
    DEFAULT_NAME,
    UNWRITTEN,
    Policy,
    PolicyChange,
    PolicyRevision,
    default_policy,
    may_expire,
)
from blockvault.policy.selection import nearest
from blockvault.store.locks import FileLock

SHORTENED = "policy.shortened"  # the kind of the warning that a change shortened retention
STOPPED = "protection is stopped"


class Policies:
    """The policies of one vault."""

    def __init__(self, session: Session, items: Items, listing: Listing) -> None:
        self._session = session
        self._catalog = session.catalog
        self._items = items
        self._listing = listing

    # --- looking -----------------------------------------------------------------------------------------------

    def all(self) -> list[Policy]:
        """Policies in order of name; the default one too where it is only offered (`UNWRITTEN`)."""
        found = [revision.policy for revision in self._catalog.policies()]
        if self._offers_default():
            found.append(_offered())
        return sorted(found, key=lambda policy: policy.name)

    def unreadable(self) -> list[str]:
        """Policies whose newest revision cannot be read."""
        return [name for name in self._catalog.policy_names() if not self._can_be_read(name)]

    def revision(self, name: str) -> PolicyRevision | None:
        """The policy's record, with when and by whom it was changed; None where it is only offered.

        Raises:
            NotFoundError: there is none, or it is deleted (`policy.not-found`).
            CorruptionError: it cannot be read (`policy.unreadable`).
        """
        try:
            found = self._catalog.policy(name)
        except CorruptionError as error:
            raise CorruptionError(
                "policy.unreadable",
                f"policy '{name}' cannot be read",
                why=error.why,
                do="run `blockvault vault repair`, or make it anew with `blockvault policy create`; "
                "until then no point of its items expires",
            ) from None
        if found is not None and not found.deleted:
            return found
        if name == DEFAULT_NAME:
            return None
        names = [policy.name for policy in self.all()]
        near = nearest(name, names)
        raise NotFoundError(
            "policy.not-found",
            f"the vault '{self._session.name}' has no policy '{name}'",
            why=f"its policies: {', '.join(names[:8])}",
            do=f"did you mean '{near}'?" if near else "see `blockvault policy list`",
        )

    def get(self, name: str) -> Policy:
        """The policy of that name; the default one where it is only offered. Raises as `revision` does."""
        found = self.revision(name)
        return found.policy if found is not None else _offered()

    def of(self, item: Item) -> Policy | None:
        """The policy that an item names; None if it names none. Raises as `revision` does."""
        return self.get(item.policy) if item.policy else None

    def users(self, name: str) -> list[Item]:
        """Items that name the policy."""
        return [item for item in self._items.all() if item.policy == name]

    def rules_of(self, item_id: ItemId) -> RetentionRules | str:
        """What is kept of an item's points by its policy, or why all are."""
        item = self._catalog.item(item_id)
        if item is None or not item.policy:
            return RetentionRules()
        if item.protection is not Protection.PROTECTED:
            return STOPPED if item.protection is Protection.STOPPED else RetentionRules()
        try:
            return self.get(item.policy).retention
        except BlockVaultError as error:
            return error.message

    def warn_of_unknown(self, monitor: Monitor) -> None:
        """Tell of policies that protected items name and that cannot be had: their points are all kept."""
        used = {item.policy for item in self._items.all() if self._is_ruled(item.id)}
        for name in sorted(used):
            try:
                self.get(name)
            except BlockVaultError as error:
                monitor.warn("policy.unreadable", f"{error.message}: no point of its items expires")

    def except_stopped(self, rules: RetentionRules) -> RulesOfItem:
        """The same rules for all items but those whose protection is stopped: all of their points are kept."""

        def rules_of(item_id: ItemId) -> RetentionRules | str:
            known = self._catalog.item(item_id)
            return STOPPED if known is not None and known.protection is Protection.STOPPED else rules

        return rules_of

    # --- changing ----------------------------------------------------------------------------------------------

    def create(self, policy: Policy, now: datetime) -> Policy:
        """Write a new policy's record.

        Raises:
            AlreadyExistsError: there is one of that name (`policy.exists`), or of the same letters in another case
                (`policy.same-letters`).
        """
        self._session.check_writable()
        with self._lock():
            self._catalog.refresh_settings()
            for name in self._catalog.policy_names():
                if name != policy.name and name.lower() == policy.name.lower():
                    raise AlreadyExistsError(
                        "policy.same-letters",
                        f"there is, or was, a policy '{name}'",
                        why="two names that differ by case alone would be one on some file systems",
                        do=f"use the name '{name}', or quite another one",
                    )
            if self._can_be_read(policy.name) and self._is_written(policy.name):
                raise AlreadyExistsError(
                    "policy.exists",
                    f"there is already a policy '{policy.name}'",
                    why="a policy is changed by its next revision, not made a second time",
                    do=f"change it with `blockvault policy set {policy.name}`, or choose another name",
                )
            return self._put(policy, now)

    def plan_change(self, name: str, changes: dict[str, Any], now: datetime) -> PolicyChange:
        """What a change of a policy's fields would come to; nothing is changed. Raises as `revision` does."""
        self._catalog.refresh_settings()
        before = self.get(name)
        after = replace(before, **changes)
        users = self.users(name)

        def rules_after(item_id: ItemId) -> RetentionRules | str:
            rules = self.rules_of(item_id)
            return rules if isinstance(rules, str) or not self._is_ruled(item_id) else after.retention

        return PolicyChange(
            before=before,
            after=after,
            items=tuple(item.name for item in users),
            expired=self._newly_expired(users, rules_after, now),
            is_shorter=may_expire(before.retention, after.retention),
        )

    def set(
        self, name: str, changes: dict[str, Any], *, confirmed: bool, monitor: Monitor, now: datetime
    ) -> PolicyChange:
        """Change a policy's fields: the next revision of its record; nothing is written where nothing differs.

        Raises:
            InvalidInputError: points would expire by it, and it is not `confirmed` (`policy.would-expire`).
        """
        self._session.check_writable()
        with self._lock():
            change = self.plan_change(name, changes, now)
            assert change.before is not None
            if change.after == change.before and change.before.revision != UNWRITTEN:
                return change
            _check_confirmed(change, confirmed=confirmed)
            note = ""
            if change.is_shorter and change.items:
                note = f"retention was shortened: {_counted(change)}"
                monitor.warn(SHORTENED, f"retention of policy '{name}' is shortened: {_counted(change)}")
            return replace(change, after=self._put(change.after, now, note))

    def delete(
        self, name: str, to: str | None, *, confirmed: bool, monitor: Monitor, now: datetime
    ) -> PolicyChange | None:
        """Delete a policy; items that use it are moved to another one first. Returns what that move comes to, if any.

        Raises:
            NotFoundError: there is none (`policy.not-found`), or it is only offered (`policy.not-written`).
            InvalidInputError: items use it and `to` names none (`policy.in-use`), or the policy itself
                (`policy.to-itself`), or points would expire (`policy.would-expire`).
        """
        self._session.check_writable()
        with self._lock():
            change = self.plan_deletion(name, to, now)
            revision = self.revision(name)
            assert revision is not None
            if change is not None:
                assert to is not None
                _check_confirmed(change, confirmed=confirmed)
                self._assign(change, to, None, monitor, now)
            self._put(revision.policy, now, deleted=True)
            return change

    def plan_deletion(self, name: str, to: str | None, now: datetime) -> PolicyChange | None:
        """What deleting a policy would come to for the items that are moved; None: none use it. Raises as `delete`."""
        self._catalog.refresh_settings()
        if self.revision(name) is None:
            raise NotFoundError(
                "policy.not-written",
                f"policy '{name}' is only offered",
                why="the vault has no record of it until it is assigned",
                do="nothing needs to be deleted",
            )
        users = self.users(name)
        if not users:
            return None
        shown = ", ".join(item.name for item in users[:8]) + (" ..." if len(users) > 8 else "")
        if to is None:
            raise InvalidInputError(
                "policy.in-use",
                f"policy '{name}' is used by {len(users)} item{'s' * (len(users) != 1)}",
                why=f"without it no points would be taken of {shown}",
                do=f"move them to another policy: `blockvault policy delete {name} --to OTHER`",
            )
        if to == name:
            raise InvalidInputError(
                "policy.to-itself",
                f"items of policy '{name}' cannot be moved to itself while it is deleted",
                why="they need another one, or no points would be taken of them",
                do="name another policy with --to; see `blockvault policy list`",
            )
        return self.plan_assignment([item.name for item in users], to, None, now)

    def plan_assignment(
        self, names: Sequence[str], policy: str, protection: Protection | None, now: datetime
    ) -> PolicyChange:
        """What naming another policy for items would come to. Raises `NotFoundError` for an item or policy."""
        self._catalog.refresh_settings()
        after = self.get(policy)
        items = self._items.named(names)
        ruled = {item.id for item in items if (protection or _assigned(item)) is Protection.PROTECTED}

        def rules_after(item_id: ItemId) -> RetentionRules | str:
            return after.retention if item_id in ruled else self.rules_of(item_id)

        before = [self.rules_of(item.id) for item in items if item.id in ruled]
        return PolicyChange(
            before=None,
            after=after,
            items=tuple(item.name for item in items),
            expired=self._newly_expired(items, rules_after, now),
            is_shorter=any(isinstance(rules, str) or may_expire(rules, after.retention) for rules in before),
        )

    def check_assignment(self, names: Sequence[str], policy: str, now: datetime) -> None:
        """Raises `InvalidInputError` (`policy.would-expire`) if points would expire by protecting items by it."""
        _check_confirmed(self.plan_assignment(names, policy, Protection.PROTECTED, now), confirmed=False)

    def assign(
        self,
        names: Sequence[str],
        policy: str,
        protection: Protection | None,
        *,
        confirmed: bool,
        monitor: Monitor,
        now: datetime,
    ) -> list[Item]:
        """Name the policy of items; all of them, or none where one is not there.

        Args:
            names: the items.
            policy: the policy; the default one is written if it was only offered.
            protection: what the items become; None: an item whose protection is stopped stays so, others are protected.
            confirmed: points may expire by it.
            monitor: told of points that will.
            now: the moment, for records.

        Raises:
            InvalidInputError: points would expire by it, and it is not `confirmed` (`policy.would-expire`).
        """
        self._session.check_writable()
        with self._lock():
            change = self.plan_assignment(names, policy, protection, now)
            _check_confirmed(change, confirmed=confirmed)
            return self._assign(change, policy, protection, monitor, now)

    def _assign(
        self, change: PolicyChange, policy: str, protection: Protection | None, monitor: Monitor, now: datetime
    ) -> list[Item]:
        if not self._is_written(policy):
            self._put(change.after, now)
        if change.expired:
            monitor.warn(SHORTENED, f"policy '{policy}' keeps less than was kept before: {_counted(change)}")
        return self._items.assign(change.items, policy, lambda item: protection or _assigned(item), now)

    # --- what these share --------------------------------------------------------------------------------------

    def _newly_expired(self, items: Collection[Item], after: RulesOfItem, now: datetime) -> tuple[PruneDecision, ...]:
        """Points of these items that their policies keep now, and would not by the rules `after`."""
        if not items:
            return ()
        names = {item.name for item in items}
        labels = self._listing.labels()
        expirer = Expirer(self._session, Monitor())
        kept = {each.ref for each in expirer.decide(self.rules_of, items=names, labels=labels, now=now) if each.keep}
        decisions = expirer.decide(after, items=names, labels=labels, now=now)
        return tuple(each for each in decisions if not each.keep and each.ref in kept)

    def _is_ruled(self, item_id: ItemId) -> bool:
        item = self._catalog.item(item_id)
        return item is not None and bool(item.policy) and item.protection is Protection.PROTECTED

    def _can_be_read(self, name: str) -> bool:
        try:
            self._catalog.policy(name)
        except CorruptionError:
            return False
        return True

    def _is_written(self, name: str) -> bool:
        found = self._catalog.policy(name)
        return found is not None and not found.deleted

    def _offers_default(self) -> bool:
        return self._can_be_read(DEFAULT_NAME) and not self._is_written(DEFAULT_NAME)

    def _put(self, policy: Policy, now: datetime, note: str = "", *, deleted: bool = False) -> Policy:
        policy = replace(policy, revision=self._catalog.next_policy_revision(policy.name))
        try:
            self._catalog.put_policy(PolicyRevision(policy, now, self._session.host_label, note, deleted))
        except AlreadyExistsError:
            raise ConflictError(
                "policy.changed-meanwhile",
                f"policy '{policy.name}' was changed by another host at the same time",
                why="its next revision was made while this one was",
                do=f"look at it with `blockvault policy show {policy.name}` and run the command again",
            ) from None
        return policy

    def _lock(self) -> FileLock:
        """Held while a policy is looked at and changed, or assigned: nobody deletes it in between."""
        return self._session.host.lock(
            "policies", kind="host.locked", subject="policies are being changed", wait_seconds=30
        )


def _assigned(item: Item) -> Protection:
    """What an item becomes by having a policy named: protected, unless its protection was stopped."""
    return Protection.STOPPED if item.protection is Protection.STOPPED else Protection.PROTECTED


def machine_zone() -> str:
    """The name of this machine's zone; `UTC` where that cannot be told, or is none that is known."""
    zone = local_zone_name()
    try:
        zone_named(zone)
    except InvalidInputError:
        return "UTC"
    return zone


def _offered() -> Policy:
    return default_policy(machine_zone())


def _check_confirmed(change: PolicyChange, *, confirmed: bool) -> None:
    if change.expired and not confirmed:
        raise would_expire(change)


def would_expire(change: PolicyChange) -> InvalidInputError:
    """The error for a change by which points would expire, where nobody confirmed it."""
    return InvalidInputError(
        "policy.would-expire",
        change.told,
        why=f"policy '{change.after.name}' would keep less than is kept now",
        do="look with --dry-run; if that is what you want, add --yes",
    )


def _counted(change: PolicyChange) -> str:
    """`43 points of 3 items expire with the next prune`."""
    told = change.told.removeprefix("this change would expire ")
    return f"{told} expire{'s' * (len(change.expired) == 1)} with the next prune"
