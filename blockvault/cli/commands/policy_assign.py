"""`blockvault policy assign`: name the policy of items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("assign")
@click.argument("name")
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Say which points would expire by it; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(call: Call, name: str, items: tuple[str, ...], dry_run: bool, yes: bool) -> int | None:
    """Name the policy of items.

    All items must be there, or none is changed. Where points would expire by it that are kept now it says how many,
    and asks; they expire with the next prune. An item whose protection is stopped stays so.
    """
    from blockvault.cli.confirm import confirm
    from blockvault.cli.policy_views import run_text, show_change
    from blockvault.clock import utc_now
    from blockvault.engine.policies import would_expire
    from blockvault.policy.schedule import start_of

    with call.open_vault() as vault, call.job() as monitor:
        change = vault.plan_assignment(items, name, protection=None)
        if dry_run:
            show_change(call, change, "dry run: nothing was assigned")
            return None
        if change.expired:
            confirm(f"{change.told}. Go on?", yes=yes, refusal=would_expire(change))
        done = vault.assign_policy(items, name, protection=None, confirmed=True, monitor=monitor)
        policy = vault.policy(name)
    now = utc_now()
    run = policy.schedule.next_after(now)
    rows = []
    for item in done:
        starts = start_of(run, item.id, policy.window) if run and item.protection.value == "protected" else None
        rows.append((item, starts))
    if call.output.as_json:
        fields = [
            {"item": item.name, "policy": item.policy, "protection": item.protection, "next_start": starts}
            for item, starts in rows
        ]
        call.output.document({"message_type": "summary", "schema": "blockvault.policy-assign/1", "items": fields})
    elif not call.output.quiet:
        for item, starts in rows:
            told = f"next run {run_text(starts, policy)}" if starts else "its protection is stopped: no point is taken"
            call.output.line(f"item '{item.name}' has policy '{name}': {told}")
    return None
