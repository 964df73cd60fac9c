"""`blockvault protect`: put items under a policy; no point is taken."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.engine.protecting import NewItem, ProtectPlan
    from blockvault.model import Item
    from blockvault.policy.policies import Policy

DISCOVERY_BYTES_MAX = 64 << 20


@click.command("protect")
@click.argument("targets", metavar="[ITEM|DISK]...", nargs=-1, type=click.Path())
@click.option("--policy", metavar="P", required=True, help="The policy that takes and keeps their points.")
@click.option("--from-discovery", metavar="FILE|-", help="Also what `item discover --json` proposes.")
@click.option("--shared", is_flag=True, help="Two items may have one disk.")
@click.option("--as-is", is_flag=True, help="Keep the bytes of each file, also of one that is no whole disk.")
@click.option("--dry-run", is_flag=True, help="Say what would be protected; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask where points would expire by it.")
@leaf()
def command(
    call: Call,
    targets: tuple[str, ...],
    policy: str,
    from_discovery: str | None,
    shared: bool,
    as_is: bool,
    dry_run: bool,
    yes: bool,
) -> int | None:
    """Put items under a policy.

    ITEM is an item's name, or a pattern of names like 'web*'. DISK is the path of a disk image or device: one that is
    no item yet is registered as one. All are looked at first, and where one cannot be protected none is. No point is
    taken: the policy does that, next at the time that is shown.
    """
    from blockvault.cli.confirm import confirm
    from blockvault.clock import utc_now
    from blockvault.engine.policies import would_expire

    proposals = _proposals(from_discovery) if from_discovery else ()
    if not targets and not proposals:
        raise click.UsageError("name items or disks, or give --from-discovery a file that proposes some")
    now = utc_now()
    paths = tuple(target for target in targets if os.path.lexists(target))
    with call.open_vault() if dry_run else call.open_or_make_vault(paths) as vault, call.job() as monitor:
        plan = vault.plan_protection(targets, policy, proposals=proposals, shared=shared, as_is=as_is)
        change = vault.plan_assignment(plan.items, policy, now=now) if plan.items else None
        if dry_run:
            call.warn(tuple(warned.message for warned in plan.warnings))
            _show_plan(call, plan, change.told if change and change.expired else "")
            return None
        if change is not None and change.expired:
            confirm(f"{change.told}. Go on?", yes=yes, refusal=would_expire(change))
        items = vault.protect(plan, shared=shared, as_is=as_is, confirmed=True, monitor=monitor, now=now)
        found = vault.policy(policy)
    show_protected(call, "blockvault.protect/1", items, found, now)
    return None


def show_protected(call: Call, schema: str, items: list[Item], policy: Policy, now: Any) -> None:
    """Items that are protected now, and when the first point of each is taken."""
    from blockvault.cli.policy_views import run_text
    from blockvault.policy.schedule import start_of

    run = policy.schedule.next_after(now)
    rows = [(item, start_of(run, item.id, policy.window) if run else None) for item in items]
    if call.output.as_json:
        fields = [
            {
                "item": item.name,
                "id": item.id,
                "policy": item.policy,
                "protection": item.protection,
                "next_run": next_run,
            }
            for item, next_run in rows
        ]
        call.output.document({"message_type": "summary", "schema": schema, "items": fields})
    elif not call.output.quiet:
        for item, next_run in rows:
            told = run_text(next_run, policy) if next_run else "none: its schedule has no moment left"
            call.output.line(f"item '{item.name}' is protected by policy '{policy.name}'; next run {told}")
        call.output.note(
            f"no point was taken; to take one now: `blockvault snapshot {rows[0][0].name}{call.vault_flag}`"
        )


def _show_plan(call: Call, plan: ProtectPlan, told: str) -> None:
    from blockvault.cli.render import shown

    if call.output.as_json:
        new = [{"item": each.name, "disks": each.disks} for each in plan.new]
        fields = {"policy": plan.policy, "items": plan.items, "new": new, "would_expire": told or None}
        call.output.document({"message_type": "summary", "schema": "blockvault.protect-plan/1", **fields})
        return
    for name in plan.items:
        call.output.line(f"item '{name}' would be protected by policy '{plan.policy}'")
    for each in plan.new:
        disks = shown(", ".join(each.disks))
        call.output.line(f"item '{each.name}' would be registered ({disks}) and protected by policy '{plan.policy}'")
    if told:
        call.output.line(told)


def _proposals(source: str) -> tuple[NewItem, ...]:
    """What an answer of `item discover --json` proposes."""
    import json

    from blockvault.engine.protecting import NewItem
    from blockvault.errors import InvalidInputError

    try:
        if source == "-":
            text = sys.stdin.read(DISCOVERY_BYTES_MAX)
        else:
            with open(source, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(DISCOVERY_BYTES_MAX)
        answer = json.loads(text)
        if answer["schema"] != "blockvault.discovery/1":
            raise ValueError(f"its schema is {answer['schema']!r}")
        found = [(each["item"], each["disks"]) for each in answer["proposals"]]
        if not all(isinstance(name, str) and all(isinstance(disk, str) for disk in disks) for name, disks in found):
            raise ValueError("a proposal has no name or no disks")
    except OSError as error:
        why, told = error.strerror, f"{source} cannot be read"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why, told = str(error)[:200], f"{source} is no answer of `blockvault item discover --json`"
    else:
        return tuple(NewItem(name, tuple(disks)) for name, disks in found)
    raise InvalidInputError(
        "protect.bad-discovery", told, why=why, do="write it with `blockvault item discover --json > FILE`"
    )
