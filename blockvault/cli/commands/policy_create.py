"""`blockvault policy create`: a new policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf
from blockvault.cli.policy_options import new_policy, policy_options

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("create")
@click.argument("name")
@policy_options
@leaf()
def command(call: Call, name: str, **options: Any) -> int | None:
    """Make a policy.

    NAME has 2 to 50 letters, digits and hyphens, a letter first. What is not named is as in the default policy: daily
    at 02:00 in this machine's zone, points kept for 30 days, snapshots for 2. `blockvault policy simulate` with the
    same options draws beforehand what would be kept.
    """
    from blockvault.clock import utc_now

    policy = new_policy(name, options)
    with call.open_vault() as vault:
        policy = vault.create_policy(policy)
        revision = vault.policy_revision(name)
    from blockvault.cli.policy_views import show_policy, warn_of_oddities

    if call.output.as_json or not call.output.quiet:
        show_policy(call, policy, revision, [], utc_now())
    warn_of_oddities(call, policy)
    return None
