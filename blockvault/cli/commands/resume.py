"""`blockvault resume`: go on protecting an item whose protection was stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("resume")
@click.argument("name", metavar="ITEM")
@click.option("--policy", metavar="P", help="Another policy than the one that it had.")
@click.option("--yes", is_flag=True, help="Do not ask where points would expire by it.")
@leaf()
def command(call: Call, name: str, policy: str | None, yes: bool) -> int | None:
    """Go on protecting an item.

    Its policy takes points again, and expires those that it does not keep: where that ends points that were kept while
    protection was stopped, it says how many and asks.
    """
    from blockvault.cli.commands.protect import show_protected
    from blockvault.cli.confirm import confirm
    from blockvault.clock import utc_now
    from blockvault.engine.policies import would_expire

    now = utc_now()
    with call.open_vault() as vault, call.job() as monitor:
        wanted = vault.policy_to_resume(name, policy)
        change = vault.plan_assignment([name], wanted, now=now)
        if change.expired:
            confirm(f"{change.told}. Go on?", yes=yes, refusal=would_expire(change))
        item = vault.resume(name, policy=policy, confirmed=True, monitor=monitor, now=now)
        found = vault.policy(wanted)
    show_protected(call, "blockvault.resume/1", [item], found, now)
    return None
