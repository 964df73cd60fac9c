"""The library's front door: `from blockvault import Vault`.

    with Vault.open_or_create() as vault:
        result = vault.snapshot(["disk.img"])
        vault.restore(str(result.number), output="restored.img")

A `Vault` offers every verb in one place; what each does in detail stands in `engine/`. One `Vault` of a folder may be
open in a process at a time (LMDB's rule); any number of processes may work on one vault, on different items at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from blockvault.clock import from_text, utc_now
from blockvault.config import DEFAULT_VAULT, configured_vaults, default_state_dir, default_vault, vault_path
from blockvault.engine.audited import audited
from blockvault.engine.backup import Backup
from blockvault.engine.changed_blocks import off_reason
from blockvault.engine.check import Check
from blockvault.engine.compare import compare
from blockvault.engine.expire import Expirer, RulesOfItem
from blockvault.engine.groups import Groups
from blockvault.engine.hook_tests import AgentState, HookTest, agent_state, mount_problems, try_hooks
from blockvault.engine.in_place import InPlace
from blockvault.engine.items import Items
from blockvault.engine.key_changes import KeyChanges
from blockvault.engine.listing import Listing
from blockvault.engine.policies import Policies
from blockvault.engine.protecting import NewItem, Protecting, ProtectPlan, UnprotectPlan
from blockvault.engine.reclaim import MAX_DEAD_DEFAULT
from blockvault.engine.repair import Repair
from blockvault.engine.restoring import Restorer, RestoreRequest
from blockvault.engine.session import Session
from blockvault.engine.usage import measure
from blockvault.engine.verified import verified_state
from blockvault.engine.verifying import verify
from blockvault.errors import BlockVaultError, HookError, InvalidInputError, NotFoundError
from blockvault.hooks.scripts import Hook, find_hooks
from blockvault.ids import ItemId, check_vault_name
from blockvault.model import (
    CheckReport,
    Consistency,
    DiffResult,
    DiskSpec,
    DryRunResult,
    Item,
    Keep,
    MarkKind,
    OnHookFailure,
    Phase2,
    PointInfo,
    PointRef,
    PointState,
    Protection,
    PruneDecision,
    PrunePlan,
    PruneResult,
    RepairReport,
    RestoreResult,
    Secret,
    SnapshotRequest,
    SnapshotResult,
    Tier,
    UsageReport,
    VaultSummary,
    VerifyBudget,
    VerifyCoverage,
    VerifyReport,
)
from blockvault.monitor import Monitor, Warned
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy, PolicyChange, PolicyRevision
from blockvault.store.folder import check_soft_delete_days, create_vault, open_folder, read_header
from blockvault.store.local import make_folders, sync_folder
from blockvault.units import CHUNK_BYTES_DEFAULT, check_chunk_size

VERIFY_DAYS = 30


# --- what the audit log says of acts whose arguments are plans -------------------------------------------------------


def _policy_told(policy: Policy) -> dict[str, Any]:
    return {"name": policy.name, "schedule": policy.schedule, "retention": policy.retention}


def _protect_told(plan: ProtectPlan) -> dict[str, Any]:
    return {"policy": plan.policy, "items": plan.items, "new_items": [new.name for new in plan.new]}


def _unprotect_told(plan: UnprotectPlan) -> dict[str, Any]:
    deleted = [info.label for info in plan.points] + [f"{record.number}" for record in plan.snapshots]
    return {"items": plan.items, "deleted_points": deleted}


def _prune_told(plan: PrunePlan) -> dict[str, Any]:
    expired = [decision.label for decision in plan.decisions if not decision.keep]
    return {"expired": expired, "purged": [label for _, label in plan.purges]}


def _point_told(given: dict[str, Any]) -> dict[str, Any]:
    """The point as people call it, whatever it was named by."""
    try:
        info: PointInfo = given["self"].point(given["point"], deleted=True)
    except BlockVaultError:
        return {"point": given["point"]}
    return {"point": info.label, "id": info.id, "item": info.item}


# ---------------------------------------------------------------------------------------------------------------------


class Vault:
    """An opened vault. Use `create`, `open` or `open_or_create`; close it, or use it in a `with` statement.

    `created_now` says whether opening made it; `notices` what opening noticed: that the folder was moved, copied or put
    back from an older copy. `keys` has what concerns the key slots of an encrypted vault.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.name = session.name
        self.path = session.path
        self.id = session.vault_id
        self.origin = session.origin
        self.encrypted = session.keys.encrypted
        self.chunk_size = session.chunk_size
        self.format_version = session.header.format_version
        self.created = from_text(session.header.created)
        self.created_now = session.created_now
        self.soft_delete_days = session.soft_delete_days
        self.notices = session.notices
        self.state_dir = session.state_dir
        self.keys = KeyChanges(session)
        self._items = Items(session)
        self._groups = Groups(session, self._items)
        self._backup = Backup(session, self._items)
        self._listing = Listing(session, self._items)
        self._policies = Policies(session, self._items, self._listing)
        self._protecting = Protecting(session, self._items, self._policies, self._listing)

    @classmethod
    def create(
        cls,
        name_or_path: str = DEFAULT_VAULT,
        *,
        path: str | None = None,
        state_dir: str | None = None,
        chunk_size: int = CHUNK_BYTES_DEFAULT,
        secret: Secret | None = None,
        soft_delete_days: int = 14,
        now: datetime | None = None,
    ) -> Vault:
        """Make a vault and open it.

        Args:
            name_or_path: its name; with a slash, the folder to make it in.
            path: the folder to make it in, if it shall lie elsewhere than under the state folder.
            state_dir: the host's state folder; None: as configured.
            chunk_size: bytes of a chunk for items that do not say otherwise.
            secret: encrypts the vault; None: no encryption.
            soft_delete_days: how long a deleted point can be brought back, 0 to 3,650 days.
            now: the moment, for records.

        Raises:
            InvalidInputError: the name or chunk size cannot be.
            AlreadyExistsError: there is something already (`vault.exists`).
            DeviceError: the system refused.
        """
        state = os.path.abspath(state_dir) if state_dir else default_state_dir()
        moment = now or utc_now()
        check_chunk_size(chunk_size)
        name = os.path.basename(name_or_path.rstrip("/")) if "/" in name_or_path else name_or_path
        check_vault_name(name)
        configured = vault_path(name_or_path, state)
        place = os.path.abspath(path) if path else configured
        registered = os.path.join(state, "vaults", name)
        if path and "/" not in name_or_path and configured not in (place, registered):
            raise InvalidInputError(
                "vault.name-taken",
                f"the vault '{name}' lies elsewhere",
                why=f"the configuration says: {configured}",
                do="leave out --path, choose another name, or change the configuration",
            )
        if path and os.path.lexists(registered):
            raise InvalidInputError(
                "vault.name-taken",
                f"there is already a vault named '{name}'",
                why=f"{registered} is there",
                do="choose another name",
            )
        create_vault(place, name, chunk_size=chunk_size, secret=secret, soft_delete_days=soft_delete_days, now=moment)
        if path and configured != place:
            names = make_folders("/", os.path.dirname(registered).lstrip("/"), mode=0o700)
            os.symlink(place, registered)
            sync_folder(names)
        return cls(Session(open_folder(place, secret), name=name, state_dir=state, now=moment, created_now=True))

    @classmethod
    def open(
        cls,
        name_or_path: str | None = None,
        *,
        state_dir: str | None = None,
        secret: Secret | None = None,
        now: datetime | None = None,
    ) -> Vault:
        """Open a vault by name or folder; None: `$BLOCKVAULT_VAULT`, or `default`.

        Raises:
            NotFoundError: there is none (`vault.not-found`, `vault.not-a-vault`).
            WrongKeyError: it is encrypted and `secret` does not open it.
            UnsupportedError, CorruptionError: it is of a newer format, or its header is damaged.
        """
        state = os.path.abspath(state_dir) if state_dir else default_state_dir()
        wanted = name_or_path or default_vault()
        place = vault_path(wanted, state)
        folder = open_folder(place, secret)
        name = wanted if "/" not in wanted else folder.config.name
        return cls(Session(folder, name=name, state_dir=state, now=now or utc_now(), created_now=False))

    @classmethod
    def open_or_create(
        cls,
        name_or_path: str | None = None,
        *,
        state_dir: str | None = None,
        secret: Secret | None = None,
        now: datetime | None = None,
    ) -> Vault:
        """Open a vault; the default one is made when there is none, encrypted only if a `secret` is given."""
        try:
            return cls.open(name_or_path, state_dir=state_dir, secret=secret, now=now)
        except NotFoundError as error:
            if error.kind != "vault.not-found" or (name_or_path or default_vault()) != DEFAULT_VAULT:
                raise
            try:
                return cls.create(DEFAULT_VAULT, state_dir=state_dir, secret=secret, now=now)
            except BlockVaultError as problem:
                if problem.kind != "vault.exists":
                    raise
                return cls.open(name_or_path, state_dir=state_dir, secret=secret, now=now)

    @staticmethod
    def known(state_dir: str | None = None) -> list[VaultSummary]:
        """The vaults that this host knows by name: those in its state folder, and those that are configured."""
        state = os.path.abspath(state_dir) if state_dir else default_state_dir()
        top = os.path.join(state, "vaults")
        names = {name for name in os.listdir(top) if not name.startswith(".")} if os.path.isdir(top) else set()
        places = {name: os.path.join(top, name) for name in names}
        places.update(configured_vaults(state))
        found = []
        for name in sorted(places):
            path = os.path.realpath(places[name])
            try:
                header = read_header(path)
                found.append(
                    VaultSummary(name, path, header.vault_id, header.encryption != "none", header.format_version)
                )
            except BlockVaultError as error:
                found.append(VaultSummary(name, path, "", False, 0, error.message))
        return found

    def close(self) -> None:
        """Close the vault; safe to call again."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @audited("vault.set", "days")
    def set_soft_delete_days(self, days: int, *, now: datetime | None = None) -> None:
        """Change how long a deleted point can be brought back; points that are deleted already keep their date.

        Raises:
            InvalidInputError: 0 to 3,650 days are possible (`vault.soft-delete-days`).
            ConflictError: another process changed the settings meanwhile (`vault.changed-meanwhile`).
        """
        self._session.check_writable()
        check_soft_delete_days(days)
        self._session.folder.change_config(now or utc_now(), soft_delete_days=days)
        self.soft_delete_days = self._session.soft_delete_days = days

    def refresh_settings(self) -> None:
        """See items and policies as other processes have left them; what lists points or plans does so by itself."""
        self._session.catalog.refresh_settings()

    def items(self) -> list[Item]:
        """Items of the vault, by name."""
        return self._items.all()

    def item(self, name: str) -> Item:
        """The item of that name. Raises `NotFoundError` (`item.not-found`)."""
        return self._items.get(name)

    def snapshot_days(self, item: Item) -> int:
        """For how many days snapshots of an item are kept on this host; 0: none are."""
        return self._items.snapshot_days(item)

    def map_off(self, name: str) -> str:
        """Why the changed-block maps of an item are off on this host: an audit found one wrong. Empty: they are on."""
        return off_reason(self._session, self._items.get(name).id)

    def add_item(
        self,
        name: str,
        disks: Sequence[str],
        *,
        chunk_size: int | None = None,
        comment: str = "",
        shared: bool = False,
        as_is: bool = False,
        monitor: Monitor | None = None,
        now: datetime | None = None,
    ) -> Item:
        """Register an item with its disks; no point is taken.

        Args:
            name: the item's name.
            disks: paths of disk images or devices, each `PATH` (named by its stem) or `vda=PATH`.
            chunk_size: bytes of its chunks; None: the vault's.
            comment: free text.
            shared: another item of this vault may have one of the disks too.
            as_is: take the bytes of each file, also of one that is no disk, or no whole one.
            monitor: told of what should be known: an image that is kept as a file, a mount of another machine.
            now: the moment, for its record.

        Raises:
            DeviceError: a disk is not there or cannot be read (`image.*`).
            InvalidInputError: it is no whole disk (`image.not-a-disk`, `image.incomplete`), another item has it
                (`item.disk-taken`, `item.in-other-vault`), or the name is taken (`item.name-taken`).
        """
        return self._items.add(
            name,
            disks,
            chunk_size=chunk_size,
            comment=comment,
            shared=shared,
            as_is=as_is,
            monitor=monitor or Monitor(),
            now=now or utc_now(),
        )

    def plan_item(
        self, name: str, disks: Sequence[str], *, shared: bool = False, as_is: bool = False
    ) -> tuple[list[DiskSpec], list[Warned]]:
        """The disks that `add_item` would register, and what it would tell of them; raises as it would."""
        return self._items.plan(name, disks, shared=shared, as_is=as_is)

    @audited("item.remove", "name")
    def remove_item(self, name: str) -> Item:
        """Remove an item that has no points; its name is free again.

        Raises:
            NotFoundError: there is none (`item.not-found`).
            InvalidInputError: it has points, perhaps deleted ones that can be brought back (`item.has-points`).
            ConflictError: it is being captured or transferred (`item.locked`).
        """
        session = self._session
        session.check_writable()
        item = self._items.get(name)
        with session.item_lock(item, "capture"), session.item_lock(item, "transfer"):
            session.catalog.refresh()
            self.check_removable(item)
            return self._items.remove(item.id)

    def check_removable(self, item: Item) -> None:
        """Raises `InvalidInputError` (`item.has-points`) if an item has points, deleted ones too."""
        session = self._session
        briefs = [brief for brief in session.catalog.briefs() if brief.item_id == item.id]
        deleted = sum(1 for brief in briefs if session.catalog.state(brief.ref).deleted is not None)
        snapshots = [
            record
            for record in session.tier.records()
            if record.item_id == item.id
            and session.catalog.state(PointRef(session.origin, record.number)).is_root
            and not any(brief.number == record.number for brief in briefs)
        ]
        if briefs or snapshots:
            counts = ((len(briefs) - deleted, "in the vault"), (deleted, "deleted, but not yet purged"))
            told = [f"{count} {what}" for count, what in (*counts, (len(snapshots), "as snapshots only")) if count]
            raise InvalidInputError(
                "item.has-points",
                f"item '{item.name}' has points",
                why=", ".join(told),
                do=f"to stop its protection and keep them: `blockvault unprotect {item.name}`; to delete them: add "
                "--delete-data, and `blockvault prune` when their soft-delete days are over",
            )

    @audited("item.set", "name", "new_name", "snapshot_days", "snapshot_dir", "comment", "disks")
    def set_item(
        self,
        name: str,
        *,
        new_name: str | None = None,
        snapshot_days: int | None = None,
        snapshot_dir: str | None = None,
        comment: str | None = None,
        disks: dict[str, str] | None = None,
        group: str | None = None,
        agent_socket: str | None = None,
        freeze_mounts: tuple[str, ...] | None = None,
        hook_seconds: int | None = None,
        add_disks: Sequence[str] = (),
        remove_disks: Sequence[str] = (),
        shared: bool = False,
        as_is: bool = False,
        monitor: Monitor | None = None,
    ) -> Item:
        """Change an item's record; points keep the name that they were taken under, and the disks that they have.

        Args:
            name: the item.
            new_name: its new name.
            snapshot_days: how long snapshots are kept, 0 to 30 days; 0 keeps none.
            snapshot_dir: where they lie; "" to have the place chosen.
            comment: free text.
            disks: new paths of disks, by name (an image that was moved).
            add_disks: further disks, as `add_item` takes them; the next point has them.
            remove_disks: names of disks that later points do without.
            shared: as `add_item`, of disks that are added.
            as_is: likewise.
            group: the items that it is captured with at one instant; "": with none.
            agent_socket: the unix socket of its QEMU guest agent; "": it has none.
            freeze_mounts: where its file systems are mounted on this host, to be frozen; (): nothing is.
            hook_seconds: how long one of its scripts may run, 1 to 3,600; 0: the default.
            monitor: told of what should be known of disks that are added.

        Raises:
            NotFoundError: no such item or disk.
            InvalidInputError, DeviceError: as `add_item`.
        """
        return self._items.set(
            name,
            new_name=new_name,
            snapshot_days=snapshot_days,
            snapshot_dir=snapshot_dir,
            comment=comment,
            disks=disks,
            add_disks=add_disks,
            remove_disks=remove_disks,
            shared=shared,
            as_is=as_is,
            monitor=monitor,
            group=group,
            agent_socket=agent_socket,
            freeze_mounts=freeze_mounts,
            hook_seconds=hook_seconds,
        )

    # --- policies ------------------------------------------------------------------------------------------------

    def policies(self) -> list[Policy]:
        """Policies by name; `default` too where it is only offered: its revision is `UNWRITTEN` then."""
        return self._policies.all()

    def unreadable_policies(self) -> list[str]:
        """Names of policies whose newest revision cannot be read: no point of their items expires."""
        return self._policies.unreadable()

    def policy(self, name: str) -> Policy:
        """The policy of that name.

        Raises:
            NotFoundError: there is none (`policy.not-found`).
            CorruptionError: it cannot be read (`policy.unreadable`).
        """
        return self._policies.get(name)

    def policy_revision(self, name: str) -> PolicyRevision | None:
        """A policy with when and by whom it was changed; None where it is only offered. Raises as `policy` does."""
        return self._policies.revision(name)

    def policy_of(self, item: Item | str) -> Policy | None:
        """The policy that an item names, whether it is protected or stopped; None: none. Raises as `policy` does."""
        return self._policies.of(self._items.get(item) if isinstance(item, str) else item)

    def items_of_policy(self, name: str) -> list[Item]:
        """Items that name a policy."""
        return self._policies.users(name)

    @audited("policy.create", told=lambda given: _policy_told(given["policy"]))
    def create_policy(self, policy: Policy, *, now: datetime | None = None) -> Policy:
        """Write a new policy. Raises `AlreadyExistsError` (`policy.exists`, `policy.same-letters`)."""
        return self._policies.create(policy, now or utc_now())

    def plan_policy(self, name: str, *, now: datetime | None = None, **changes: Any) -> PolicyChange:
        """What `set_policy` would come to: which points would expire by it; nothing is changed."""
        return self._policies.plan_change(name, changes, now or utc_now())

    @audited("policy.set", "name", told=lambda given: given["changes"])
    def set_policy(
        self,
        name: str,
        *,
        confirmed: bool = False,
        monitor: Monitor | None = None,
        now: datetime | None = None,
        **changes: Any,
    ) -> PolicyChange:
        """Change a policy: fields of `Policy` by name, such as `retention` or `snapshot_days`.

        Args:
            name: the policy.
            confirmed: points that are kept now may expire by it.
            monitor: told of a retention that is shortened (`policy.shortened`).
            now: the moment, for its record.
            changes: the fields; what is not named stays.

        Raises:
            InvalidInputError: points would expire, and it is not `confirmed` (`policy.would-expire`).
            ConflictError: another host changed it at the same time (`policy.changed-meanwhile`).
        """
        return self._policies.set(
            name, changes, confirmed=confirmed, monitor=monitor or Monitor(), now=now or utc_now()
        )

    def plan_policy_deletion(
        self, name: str, *, to: str | None = None, now: datetime | None = None
    ) -> PolicyChange | None:
        """What `delete_policy` would come to for the items that are moved; None: no item uses it."""
        return self._policies.plan_deletion(name, to, now or utc_now())

    @audited("policy.delete", "name", "to")
    def delete_policy(
        self,
        name: str,
        *,
        to: str | None = None,
        confirmed: bool = False,
        monitor: Monitor | None = None,
        now: datetime | None = None,
    ) -> PolicyChange | None:
        """Delete a policy that no item uses, or whose items are moved `to` another; a stopped one stays stopped.

        Raises:
            InvalidInputError: items use it (`policy.in-use`), or points would expire by the move, and it is not
                `confirmed` (`policy.would-expire`).
        """
        return self._policies.delete(name, to, confirmed=confirmed, monitor=monitor or Monitor(), now=now or utc_now())

    def plan_assignment(
        self,
        items: Sequence[str],
        policy: str,
        *,
        protection: Protection | None = Protection.PROTECTED,
        now: datetime | None = None,
    ) -> PolicyChange:
        """What `assign_policy` would come to: which points would expire by it; nothing is changed."""
        return self._policies.plan_assignment(items, policy, protection, now or utc_now())

    @audited("policy.assign", "items", "policy", "protection")
    def assign_policy(
        self,
        items: Sequence[str],
        policy: str,
        *,
        protection: Protection | None = Protection.PROTECTED,
        confirmed: bool = False,
        monitor: Monitor | None = None,
        now: datetime | None = None,
    ) -> list[Item]:
        """Name the policy by which points of items are taken and kept; all items must be there, or none is changed.

        Args:
            items: names of items.
            policy: the policy; `default` is written when it was only offered.
            protection: what the items become; None: protected, but those whose protection is stopped stay so.
            confirmed: points that are kept now may expire by it.
            monitor: told if some will (`policy.shortened`).
            now: the moment, for records.

        Raises:
            NotFoundError: no such item or policy.
            InvalidInputError: points would expire, and it is not `confirmed` (`policy.would-expire`).
        """
        return self._policies.assign(
            items, policy, protection, confirmed=confirmed, monitor=monitor or Monitor(), now=now or utc_now()
        )

    # --- protection ----------------------------------------------------------------------------------------------

    def plan_protection(
        self,
        targets: Sequence[str],
        policy: str,
        *,
        proposals: Sequence[NewItem] = (),
        shared: bool = False,
        as_is: bool = False,
    ) -> ProtectPlan:
        """What `protect` would do; all that could stand in its way is looked at, and nothing is changed.

        Args:
            targets: names of items, patterns of names (`web*`), or paths of disks; a disk of no item becomes one.
            policy: the policy.
            proposals: further items, as `item discover` proposes them.
            shared: as `add_item`, of items that are new.
            as_is: likewise.

        Raises:
            NotFoundError: no such item or policy.
            InvalidInputError, DeviceError: one of them cannot be protected; `protect.refused` if several cannot.
        """
        return self._protecting.plan(targets, proposals, policy, shared=shared, as_is=as_is)

    @audited("item.protect", told=lambda given: _protect_told(given["plan"]))
    def protect(
        self,
        plan: ProtectPlan,
        *,
        shared: bool = False,
        as_is: bool = False,
        confirmed: bool = False,
        monitor: Monitor | None = None,
        now: datetime | None = None,
    ) -> list[Item]:
        """Register the items that are new, and put all under the policy; no point is taken.

        Raises:
            InvalidInputError: points that are kept now would expire, and it is not `confirmed` (`policy.would-expire`).
        """
        return self._protecting.execute(
            plan, shared=shared, as_is=as_is, confirmed=confirmed, monitor=monitor or Monitor(), now=now or utc_now()
        )

    def plan_unprotect(self, items: Sequence[str], *, delete_data: bool = False) -> UnprotectPlan:
        """What `unprotect` would do: which points it would delete.

        Raises:
            NotFoundError: no such item.
            InvalidInputError: an item is not protected (`item.not-protected`), or a point is held (`point.held`).
        """
        return self._protecting.plan_unprotect(items, delete_data=delete_data)

    @audited("item.unprotect", "reason", told=lambda given: _unprotect_told(given["plan"]))
    def unprotect(
        self, plan: UnprotectPlan, *, reason: str = "", monitor: Monitor | None = None, now: datetime | None = None
    ) -> list[Item]:
        """Stop the protection of items: no more points are taken, and rules expire none of those that are there.

        Points that the plan names are deleted: they can be brought back for the vault's soft-delete days.
        """
        return self._protecting.unprotect(plan, reason=reason, monitor=monitor or Monitor(), now=now or utc_now())

    def policy_to_resume(self, item: str, policy: str | None = None) -> str:
        """The policy by which `resume` would go on; raises as it would."""
        return self._protecting.policy_to_resume(item, policy)

    @audited("item.resume", "item", "policy")
    def resume(
        self,
        item: str,
        *,
        policy: str | None = None,
        confirmed: bool = False,
        monitor: Monitor | None = None,
        now: datetime | None = None,
    ) -> Item:
        """Go on protecting an item whose protection was stopped, by its policy or another one.

        Raises:
            InvalidInputError: it is not stopped (`item.not-stopped`), has no policy (`item.no-policy`), or points would
                expire that were kept while it was stopped, and it is not `confirmed` (`policy.would-expire`).
        """
        return self._protecting.resume(
            item, policy, confirmed=confirmed, monitor=monitor or Monitor(), now=now or utc_now()
        )

    # --- points --------------------------------------------------------------------------------------------------
    def groups(self) -> dict[str, tuple[Item, ...]]:
        """The items of every group, by its name."""
        return self._groups.all()

    def create_group(self, name: str, items: list[str]) -> tuple[Item, ...]:
        """Have items captured at one instant from now on; they are in no other group. Raises `group.exists`."""
        return self._groups.create(name, items)

    def set_group(self, name: str, items: list[str]) -> tuple[Item, ...]:
        """Have a group hold exactly these items. Raises `NotFoundError` (`group.not-found`)."""
        return self._groups.set(name, items)

    def remove_group(self, name: str) -> tuple[Item, ...]:
        """Take all items out of a group; the items that were in it."""
        return self._groups.remove(name)

    def agent_state(self, item: Item) -> AgentState | None:
        """Whether an item's guest agent answers, asked now; None if the item names none."""
        return agent_state(item)

    def mount_problems(self, item: Item) -> dict[str, HookError | None]:
        """For each mount that an item names, why it could not be frozen now; None: it could. Nothing is frozen."""
        return mount_problems(self._session, item)

    def hooks(self, name: str) -> list[Hook]:
        """The scripts of an item in their order; one that cannot be run says why (`Hook.problem`)."""
        return find_hooks(self._items.get(name).name)

    def try_hooks(self, name: str, *, freeze: bool = False, monitor: Monitor | None = None) -> HookTest:
        """Run an item's pre and post scripts without a capture; with `freeze` its guest stands still for a moment."""
        return try_hooks(self._session, self._items.get(name), monitor or Monitor(), freeze=freeze)

    def snapshot(
        self,
        targets: list[str],
        *,
        name: str | None = None,
        keep: bool = True,
        snapshot_only: bool = False,
        full: bool = False,
        consistency: Consistency = Consistency.CRASH,
        tags: dict[str, str] | None = None,
        comment: str = "",
        retain_until: datetime | None = None,
        level: int = 1,
        on_hook_failure: OnHookFailure = OnHookFailure.WARN,
        job: str = "",
        now: datetime | None = None,
        monitor: Monitor | None = None,
        on_number: Callable[[Item, int], None] | None = None,
        on_captured: Callable[[], None] | None = None,
    ) -> SnapshotResult:
        """Take a recovery point: capture a snapshot, then transfer the churn to the vault.

        Args:
            targets: paths of disk images or devices (one point of all of them), or the name of one item.
            name: the item's name when it is new.
            keep: keep a snapshot in the instant-restore tier; else the image is read straight into the vault.
            snapshot_only: capture only; `transfer` moves it later.
            full: compare every chunk by identity, not by digest.
            consistency: `CRASH`: an image that changes while it is read without a snapshot under it ends the job;
                `NONE`: it is taken as it comes and the point says so. `FILE_SYSTEM`: the guest, or its file systems,
                are frozen for the capture. `APPLICATION`: and its pre scripts run before. The point says what was
                reached.
            tags: kept in the point's record.
            comment: kept in the point's record.
            retain_until: until when the point is kept whatever the rules say; kept in its record.
            level: zstd level, 1 to 19.
            on_hook_failure: what happens where less is reached than `consistency` asks: a crash-consistent point and a
                warning, or no point.
            job: told to the scripts.
            now: the moment of the point; None: the system's clock.
            monitor: told of progress and warnings.
            on_number: called when the item is known and the point has its number.
            on_captured: called when the snapshot is made, before it is transferred.

        Raises:
            HookError: the consistency was not reached, and `on_hook_failure` is `FAIL`.
            DeviceError: an image cannot be read (`image.*`), or space ran out (`store.no-space`).
            ConflictError: another process captures or transfers this item (`item.locked`).
            InvalidInputError: the request contradicts itself.
        """
        request = SnapshotRequest(
            targets=targets,
            name=name,
            keep=Keep.YES if keep else Keep.NO,
            phase2=Phase2.LATER if snapshot_only else Phase2.NOW,
            full=full,
            consistency=consistency,
            tags=tags or {},
            comment=comment,
            retain_until=retain_until,
            level=level,
            on_hook_failure=on_hook_failure,
            job=job,
        )
        return self._backup.snapshot(request, now=now, monitor=monitor, on_number=on_number, on_captured=on_captured)

    def snapshot_group(
        self,
        items: list[str] | str,
        *,
        phase2: Phase2 = Phase2.NOW,
        full: bool = False,
        consistency: Consistency = Consistency.CRASH,
        tags: dict[str, str] | None = None,
        comment: str = "",
        retain_until: datetime | None = None,
        level: int = 1,
        on_hook_failure: OnHookFailure = OnHookFailure.WARN,
        job: str = "",
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> list[SnapshotResult]:
        """Take a point of each of several items at one instant: all frozen, all cloned, all thawed.

        Every point says how long its guest was frozen (`freeze_ms`) and how far apart the first and the last disk of
        all may be (`skew_ms`). All are captured or none; then each is transferred, and one that cannot be stays a
        snapshot.

        `items` is the name of a group, whose name the points then bear, or the names of items. `phase2` says when the
        churn is transferred. All others are as of `snapshot`.

        Raises:
            NotFoundError: there is no such group or item (`group.not-found`, `item.not-found`).
            UnsupportedError: the files of an item cannot be cloned (`group.cannot-clone`).
        """
        group = items if isinstance(items, str) else ""
        names = [item.name for item in self._groups.get(group)] if isinstance(items, str) else items
        request = SnapshotRequest(
            targets=names,
            phase2=phase2,
            full=full,
            consistency=consistency,
            tags=tags or {},
            comment=comment,
            retain_until=retain_until,
            level=level,
            on_hook_failure=on_hook_failure,
            job=job,
        )
        return self._backup.snapshot_group(names, group, request, now=now, monitor=monitor)

    def plan_snapshot(
        self, targets: list[str], *, name: str | None = None, full: bool = False, monitor: Monitor | None = None
    ) -> DryRunResult:
        """What `snapshot` would read and find changed, read from the live image; nothing is written."""
        return self._backup.plan_snapshot(targets, name=name, full=full, monitor=monitor)

    def capture(
        self,
        item: str,
        *,
        consistency: Consistency = Consistency.CRASH,
        tags: dict[str, str] | None = None,
        comment: str = "",
        retain_until: datetime | None = None,
        on_hook_failure: OnHookFailure = OnHookFailure.WARN,
        job: str = "",
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> SnapshotResult:
        """Phase 1 of a backup of an item; `transfer` is phase 2.

        Where no snapshot can be kept the point goes into the vault at once: `tier` of the result says which it was.

        Args and errors: as `snapshot`.
        """
        known = self._items.get(item)  # by its disks: a file of the item's name may lie in this folder
        request = SnapshotRequest(
            targets=[disk.path for disk in known.disks],
            name=known.name,
            phase2=Phase2.LATER_IF_KEPT,
            consistency=consistency,
            tags=tags or {},
            comment=comment,
            retain_until=retain_until,
            on_hook_failure=on_hook_failure,
            job=job,
        )
        return self._backup.snapshot(request, now=now, monitor=monitor)

    def transfer(
        self,
        item: str | None = None,
        *,
        number: int | None = None,
        level: int = 1,
        monitor: Monitor | None = None,
    ) -> list[SnapshotResult]:
        """Run phase 2 for snapshots that still wait, oldest first.

        Args:
            item: only this item's; None: all.
            number: only that of this point.
            level: zstd level.
            monitor: told of progress and warnings.
        """
        return self._backup.transfer(item, number=number, level=level, monitor=monitor)

    def expire_snapshots(self, *, now: datetime | None = None, monitor: Monitor | None = None) -> None:
        """Remove snapshots whose days are over, as each `snapshot` does.

        That of an item's newest point in the vault stays, and so does one that no newer point in the vault stands for.
        """
        self._session.check_writable()
        self._backup.expire_snapshots(now or utc_now(), monitor or Monitor())

    def points(self, item: str | None = None, *, deleted: bool = False) -> list[PointInfo]:
        """All points, from the vault and the snapshot tier, in order of number; or those of one item.

        Deleted points that can still be brought back are among them if `deleted` says so.
        """
        return self._listing.points(item, deleted=deleted)

    def point(self, ref: str, *, deleted: bool = False) -> PointInfo:
        """The point that `ref` names: `3`, `HOST:3`, an id's prefix, `ITEM@latest`, `ITEM@-1`, `ITEM@DATE`."""
        return self._listing.find(ref, deleted=deleted)

    @audited("point.hold", "reason", told=_point_told)
    def hold(self, point: str, *, reason: str = "", now: datetime | None = None) -> PointInfo:
        """Keep a point whatever the rules say, until `unhold`. Deleted points can be held too."""
        info = self.point(point, deleted=True)
        Expirer(self._session, Monitor()).hold(info, reason, now or utc_now())
        return self.point(info.id, deleted=True)

    @audited("point.unhold", told=_point_told)
    def unhold(self, point: str, *, now: datetime | None = None) -> PointInfo:
        """Lift a hold. Raises `InvalidInputError` (`point.not-held`)."""
        info = self.point(point, deleted=True)
        Expirer(self._session, Monitor()).unhold(info, now or utc_now())
        return self.point(info.id, deleted=True)

    @audited("point.delete", "reason", "purge", told=_point_told)
    def delete_point(
        self, point: str, *, reason: str = "", purge: bool = False, now: datetime | None = None
    ) -> PointState:
        """Delete a point: out of the lists at once, its space freed by `prune` after the vault's soft-delete days.

        A point that is only a snapshot has no soft delete: it is removed at once.

        Args:
            point: as `point` takes it.
            reason: kept with the mark.
            purge: for good: it cannot be brought back.
            now: the moment.

        Raises:
            InvalidInputError: it is held (`point.held`) or deleted already (`point.deleted`).
        """
        info = self.point(point, deleted=purge)
        if info.point is None:
            self._session.tier.remove(next(r for r in self._session.tier.records() if r.number == info.number))
            return PointState(ended=MarkKind.PURGE)
        return Expirer(self._session, Monitor()).delete(info, reason, now or utc_now(), purge=purge)

    @audited("point.undelete", told=_point_told)
    def undelete_point(self, point: str, *, now: datetime | None = None) -> PointInfo:
        """Bring a deleted point back. Raises `InvalidInputError` (`point.not-deleted`)."""
        info = self.point(point, deleted=True)
        Expirer(self._session, Monitor()).undelete(info, now or utc_now())
        return self.point(info.id)

    def plan_prune(
        self,
        rules: RetentionRules | None = None,
        *,
        item: str | None = None,
        max_dead: float = MAX_DEAD_DEFAULT,
        held_items: Mapping[ItemId, str] | None = None,
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> PrunePlan:
        """What `prune` would expire, purge and free; nothing is changed.

        Args:
            rules: what is kept of each item; None: what its own policy says, and of an item without one only points
                expire whose own retain-until is over. All points are kept of an item whose protection is stopped,
                unless `item` names it and there are rules, and of one whose policy cannot be read.
            item: expire and purge only points of this item; space is freed in the whole vault.
            max_dead: a pack of which a larger share is dead is written again without it.
            held_items: by item's id, why all of its points are kept whatever rules say, deleted ones too: what
                `reports.alerts.held_items` knows of signs that somebody destroys what the item holds.
            now: the moment.
            monitor: told of progress and warnings.

        Raises:
            CorruptionError: what a point needs cannot be read (`reclaim.stopped`).
        """
        if item is not None:
            item = self._items.get(item).name
        wanted: RetentionRules | RulesOfItem = self._policies.rules_of
        if rules is not None:
            wanted = self._policies.except_stopped(rules) if item is None else rules
        else:
            self._policies.warn_of_unknown(monitor or Monitor())
        return Expirer(self._session, monitor or Monitor()).plan(
            wanted,
            item=item,
            labels=self._listing.labels(),
            max_dead=max_dead,
            now=now or utc_now(),
            held_items=held_items or {},
        )

    def decisions(self, item: str | None = None, *, now: datetime | None = None) -> dict[PointRef, PruneDecision]:
        """What the policies say of each point in the vault, kept or not and why; nothing is changed.

        Points of items without a policy are not among them.

        Args:
            item: only of points of this item.
            now: the moment.
        """
        ruled = {each.name for each in self.items() if each.policy and each.protection is not Protection.NONE}
        items = ruled if item is None else ruled & {item}
        if not items:
            return {}
        found = Expirer(self._session, Monitor()).decide(
            self._policies.rules_of, items=items, labels=self._listing.labels(), now=now or utc_now()
        )
        return {decision.ref: decision for decision in found}

    @audited("prune", told=lambda given: _prune_told(given["plan"]), frees_space=True)
    def prune(self, plan: PrunePlan, *, confirmed: bool = False, monitor: Monitor | None = None) -> PruneResult:
        """Carry out what `plan_prune` planned, once.

        Raises:
            InvalidInputError: nothing would be left of an item, or the clock is in doubt, and it is not `confirmed`.
        """
        return Expirer(self._session, monitor or Monitor()).execute(plan, confirmed=confirmed)

    @audited(
        "restore.force",
        "point",
        "disk",
        "output",
        when=lambda given: given["force"] and not given["dry_run"],
        is_rescue=True,
    )
    def restore(
        self,
        point: str,
        *,
        disk: str | None = None,
        output: str | None = None,
        source: str = "auto",
        force: bool = False,
        verify: bool = True,
        dry_run: bool = False,
        stream: int | None = None,
        monitor: Monitor | None = None,
    ) -> RestoreResult:
        """Write a point's disks to files or devices, or one disk to a stream.

        Args:
            point: as `point` takes it.
            disk: only this disk.
            output: a file or device (one disk), a folder, or `-` for the stream; None: a name in this folder.
            source: `auto` (the snapshot if there is one), `snapshot` or `vault`.
            force: overwrite a file, write a device.
            verify: check a restore from a snapshot against the point's ids before it is released. A restore from
                the vault always checks every block.
            dry_run: say what would be written, and write nothing.
            stream: file descriptor for `-`.
            monitor: told of progress and warnings.

        Raises:
            NotFoundError: no such point or disk, or it is not in that tier.
            AlreadyExistsError: the target exists (`target.exists`).
            CorruptionError: a block that is needed is damaged; nothing was put in place.
        """
        monitor = monitor or Monitor()
        session = self._session
        info = self.point(point)
        if "@" in point:
            for unreadable in self._listing.unreadable():
                monitor.warn(
                    "vault.object-damaged",
                    f"the point record {unreadable.name} is damaged: '{point}' may mean another than {info.label}",
                )
        records = {record.number: record for record in session.tier.records()}
        record = records.get(info.number) if info.tier is not Tier.VAULT else None
        request = RestoreRequest(
            info=info,
            record=record,
            disk=disk,
            output=output,
            source=source,
            force=force,
            verify=verify,
            dry_run=dry_run,
            stream=stream,
        )
        restorer = Restorer(
            session.store,
            session.keys,
            session.shelf,
            session.tier,
            session.host.digests_folder,
            session.quarantine,
            monitor,
        )
        if info.point is None or dry_run:
            return restorer.run(request)
        with session.reading([info.point]):
            self.point(info.id)  # it may have ended before the lease was taken
            return restorer.run(request)

    @audited(
        "restore.in-place",
        "disk",
        "undo",
        told=_point_told,
        when=lambda given: not given["dry_run"],
        is_rescue=True,
    )
    def restore_in_place(
        self,
        point: str,
        *,
        disk: str | None = None,
        undo: bool = True,
        dry_run: bool = False,
        monitor: Monitor | None = None,
    ) -> RestoreResult:
        """Turn the disks of a point's item back into what they were at the point, writing only what differs.

        Killed in mid-way, the same call goes on where it was; until then no point can be taken of the item.

        Args:
            point: as `point` takes it; it must be in the vault.
            disk: only this disk.
            undo: take a point of the disks as they are first.
            dry_run: compare only.
            monitor: told of progress and warnings.

        Raises:
            NotFoundError: no such point or disk, or the point is only a snapshot (`point.not-in-vault`).
            DeviceError: a disk is in use (`image.in-use`), missing, or cannot be written.
            CorruptionError: a block that is needed is damaged: the disks are half restored.
        """
        monitor = monitor or Monitor()
        begun = time.monotonic()
        session = self._session
        info = self.point(point)
        if info.point is None:
            raise NotFoundError(
                "point.not-in-vault",
                f"point {info.label} is only a snapshot",
                why="what differs is found by the identities of its blocks, which it has when it is in the vault",
                do="run `blockvault transfer` first, or restore it to a new file",
            )
        item = session.catalog.item(info.point.item_id)
        if item is None:
            raise NotFoundError(
                "item.not-found",
                f"the item of point {info.label} is gone, and with it where its disks are",
                do="restore the point to a new file",
            )

        def take_undo() -> int:
            label = {"undo-of": info.label}
            comment = f"before point {info.label} was restored in place"
            request = SnapshotRequest(  # the disks are ours until the restore has ended: the vault alone will do
                [disk.path for disk in item.disks], name=item.name, keep=Keep.IF_CHEAP, tags=label, comment=comment
            )
            return self._backup.snapshot(request, now=None, monitor=monitor).number

        with session.reading([info.point]):
            self.point(info.id)
            done = InPlace(session, monitor).run(
                info.point, info.label, item, disk=disk, take_undo=take_undo if undo else None, dry_run=dry_run
            )
        warnings = tuple(warning.message for warning in monitor.warnings)
        return RestoreResult(
            item=item.name,
            number=info.number,
            label=info.label,
            source=Tier.VAULT,
            paths=done.paths,
            size_bytes=done.size_bytes,
            written_bytes=0 if dry_run else done.differing_chunks * item.chunk_size,
            verified=True,
            unchecked=False,
            healed_chunks=0,
            seconds=time.monotonic() - begun,
            job_state="completed-with-warning" if warnings else "completed",
            dry_run=dry_run,
            warnings=warnings,
            in_place=True,
            differing_chunks=done.differing_chunks,
            undo_number=done.undo_number,
        )

    def diff(
        self, left: str, right: str | None = None, *, disk: str | None = None, monitor: Monitor | None = None
    ) -> DiffResult:
        """Where two states differ.

        Args:
            left: a point.
            right: a later point, or the path of a disk image; None: `left` against its parent.
            disk: only this disk.
            monitor: told of progress.
        """
        with self._session.reading(info.point for info in self.points() if info.point is not None):
            return compare(self._session, self.points(), left, right, disk, monitor or Monitor())

    def verify(
        self,
        point: str | None = None,
        *,
        quick: bool = False,
        budget: VerifyBudget | None = None,
        within_days: int = VERIFY_DAYS,
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> VerifyReport:
        """Check every byte that a point (None: every point, and the records besides) needs against its identity.

        What is found damaged goes into quarantine: no later point relies on it, the next one stores its chunks anew.

        Args:
            point: only this point.
            quick: structure only: records, layers, tables and what binds them, no blocks.
            budget: read blocks least recently verified first until it is spent; the next run goes on from there.
            within_days: of how many days the report's `coverage` speaks.
            now: the moment that is noted for what was read; None: the system's clock.
            monitor: told of progress.
        """
        begun = time.monotonic()
        return verify(
            self._session,
            self._listing,
            [self.point(point)] if point is not None else self.points(),
            everything=point is None,
            quick=quick,
            budget=budget,
            within_days=within_days,
            moment=now or utc_now(),
            elapsed=lambda: time.monotonic() - begun,
            monitor=monitor or Monitor(),
        )

    def check(self, *, quick: bool = False, now: datetime | None = None, monitor: Monitor | None = None) -> CheckReport:
        """Check the vault's structure, LMDB, and what nobody needs any more; no block is decoded.

        Args:
            quick: leave out what no point needs: other packs' tables, and the entries of the dedup index.
            now: the moment; None: the system's clock.
            monitor: told of progress and warnings.
        """
        begun = time.monotonic()
        return Check(self._session, monitor or Monitor()).run(
            self.points(), quick=quick, moment=now or utc_now(), elapsed=lambda: time.monotonic() - begun
        )

    @audited("vault.repair", "rebuild_index", when=lambda given: not given["dry_run"])
    def repair(
        self,
        *,
        dry_run: bool = False,
        rebuild_index: bool = False,
        quarantined_only: bool = False,
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> RepairReport:
        """Heal what is damaged where a copy is left: in the vault, in a snapshot, in the live image, in LMDB.

        Args:
            dry_run: say what would be done, and change nothing.
            rebuild_index: make the LMDB store anew too.
            quarantined_only: read only the blocks that are in quarantine, instead of all.
            now: the moment; None: the system's clock.
            monitor: told of progress and warnings.

        Raises:
            ConflictError: another process repairs or reclaims (`vault.locked`).
        """
        begun = time.monotonic()
        repair = Repair(self._session, self._items, self._listing, monitor or Monitor(), dry_run=dry_run)
        return repair.run(
            rebuild_index=rebuild_index,
            quarantined_only=quarantined_only,
            moment=now or utc_now(),
            elapsed=lambda: time.monotonic() - begun,
        )

    def coverage(self, *, within_days: int = VERIFY_DAYS, now: datetime | None = None) -> VerifyCoverage:
        """How much of what points need was verified of late, as this host remembers it; nothing is read."""
        return verified_state(self._session).coverage(now or utc_now(), within_days)

    def damage(self) -> tuple[str, ...]:
        """What is known to be damaged, in words: blocks in quarantine and records that cannot be read; nothing is read.

        It is what verify, restores and transfers have met; `verify` looks for more.
        """
        quarantine = self._session.quarantine
        quarantine.refresh()
        found = [f"{entry.name}: {entry.reason or 'in quarantine'}" for entry in quarantine.entries()]
        return tuple(found + [f"{record.name}: {record.reason}" for record in self._listing.unreadable()])

    def snapshot_folders(self) -> list[str]:
        """The folders that hold snapshots of this vault's items on this host."""
        return sorted({record.folder for record in self._session.tier.records()})

    def usage(self, *, by: str = "item") -> UsageReport:
        """Where the space goes, by `item` or by `tier`."""
        if by not in ("item", "tier"):
            raise InvalidInputError("usage.by", f"usage cannot be shown by '{by}'", do="use --by item or --by tier")
        tier = self._session.tier
        snapshot_bytes = {record.number: tier.bytes_used(record) for record in tier.records()}
        return measure(self.name, self.path, self.points(), snapshot_bytes, by=by)
