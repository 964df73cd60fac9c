"""`blockvault policy set`: change a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf
from blockvault.cli.policy_options import changes_of, named, policy_options

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("set")
@click.argument("name")
@policy_options
@click.option("--dry-run", is_flag=True, help="Say which points would expire by it; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(call: Call, name: str, dry_run: bool, yes: bool, **options: Any) -> int | None:
    """Change a policy.

    What is not named stays as it is. A change by which points would expire that are kept now says how many, and asks;
    they expire with the next prune. Snapshots that exist keep the date that they were taken with.
    """
    if not named(options):
        raise click.UsageError("nothing to change: see `blockvault policy set --help`")
    from blockvault.cli.confirm import confirm
    from blockvault.cli.policy_views import show_change, show_policy, warn_of_oddities
    from blockvault.clock import utc_now
    from blockvault.engine.policies import would_expire

    with call.open_vault() as vault, call.job() as monitor:
        changes = changes_of(vault.policy(name), options)
        change = vault.plan_policy(name, **changes)
        if dry_run:
            show_change(call, change, f"dry run: policy '{name}' was not changed")
            return None
        if change.expired:
            confirm(f"{change.told}. Go on?", yes=yes, refusal=would_expire(change))
        policy = vault.set_policy(name, confirmed=True, monitor=monitor, **changes).after
        revision, items = vault.policy_revision(name), vault.items_of_policy(name)
    if call.output.as_json or not call.output.quiet:
        show_policy(call, policy, revision, items, utc_now())
    warn_of_oddities(call, policy)
    return None
