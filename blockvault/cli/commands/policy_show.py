"""`blockvault policy show`: a policy, its next runs and its items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("show")
@click.argument("name")
@leaf()
def command(call: Call, name: str) -> int | None:
    """Show a policy, its next runs and its items.

    Runs are shown by the wall clock of the policy's zone; those that daylight saving moves within a year are told. Each
    item starts a little later than that, by its own part of the time over which starts are spread.
    """
    from blockvault.clock import utc_now

    with call.open_vault() as vault:
        policy, revision = vault.policy(name), vault.policy_revision(name)
        items = vault.items_of_policy(name)
    from blockvault.cli.policy_views import show_policy
    from blockvault.policy.policies import oddities_of

    show_policy(call, policy, revision, items, utc_now())
    for oddity in oddities_of(policy):
        if not call.output.as_json:
            call.output.note(oddity.message)
    return None
