"""`blockvault policy delete`: delete a policy, its items moved to another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("delete")
@click.argument("name")
@click.option("--to", metavar="OTHER", help="The policy that its items get.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(call: Call, name: str, to: str | None, dry_run: bool, yes: bool) -> int | None:
    """Delete a policy.

    One that items use is refused, unless they move --to another. Where points would expire by that move it says how
    many. No point is deleted by this itself.
    """
    from blockvault.cli.confirm import confirm
    from blockvault.cli.policy_views import change_fields, show_change
    from blockvault.cli.views import counted
    from blockvault.engine.policies import would_expire

    with call.open_vault() as vault, call.job() as monitor:
        change = vault.plan_policy_deletion(name, to=to)
        if dry_run and change is not None:
            show_change(call, change, f"dry run: policy '{name}' was not deleted")
            return None
        if not dry_run:
            if change is not None and change.expired:
                confirm(f"{change.told}. Go on?", yes=yes, refusal=would_expire(change))
            else:
                confirm(f"Delete policy '{name}'?", yes=yes)
            change = vault.delete_policy(name, to=to, confirmed=True, monitor=monitor)
    if call.output.as_json:
        fields = {"deleted": not dry_run, "to": to, "moved": change_fields(change) if change is not None else None}
        call.output.document(
            {"message_type": "summary", "schema": "blockvault.policy-delete/1", "policy": name, **fields}
        )
    elif not call.output.quiet:
        moved = f"; {counted(len(change.items), 'item')} moved to '{to}'" if change is not None else ""
        call.output.line(f"policy '{name}' {'would be' if dry_run else 'is'} deleted{moved}")
    return None
