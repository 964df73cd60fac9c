"""`blockvault policy simulate`: draw which points a policy would leave, and say what a change would expire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf
from blockvault.cli.policy_options import changes_of, named, new_policy, policy_options

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.policy.policies import Policy, PolicyChange
    from blockvault.vault import Vault


@click.command("simulate")
@click.argument("name")
@policy_options
@click.option("--months", type=click.IntRange(1, 120), default=13, show_default=True, help="How many months to draw.")
@click.option("--item", "items", metavar="ITEM", multiple=True, help="What assigning it to ITEM would expire.")
@leaf()
def command(call: Call, name: str, months: int, items: tuple[str, ...], **options: Any) -> int | None:
    """Draw which points a policy would leave, and what a change would expire.

    A row is a month and a mark a day: the letter of the rule that keeps a point of that day, as if the policy had run
    for all those months. With the options of `policy set` the changed policy is drawn, and said how many of the points
    that its items have now would expire by the change. A NAME that is no policy yet is drawn as `policy create` would
    make it. Nothing is changed.
    """
    from blockvault.clock import utc_now

    now = utc_now()
    with call.open_vault() as vault:
        policy, change = _planned(vault, name, items, options)
    from blockvault.cli.policy_views import change_fields, draw, simulation_fields, warn_of_oddities
    from blockvault.policy.simulate import simulate

    simulation = simulate(policy, now, months)
    if call.output.as_json:
        fields = simulation_fields(simulation)
        told = change_fields(change) if change is not None else None
        call.output.document({"schema": "blockvault.policy-simulation/1", **fields, "change": told})
    else:
        draw(call, simulation)
        if change is not None:
            call.output.line()
            call.output.line(change.told)
    warn_of_oddities(call, policy)
    return None


def _planned(
    vault: Vault, name: str, items: tuple[str, ...], options: dict[str, Any]
) -> tuple[Policy, PolicyChange | None]:
    """The policy to draw, and what it would come to for points that there are."""
    from blockvault.errors import NotFoundError

    try:
        policy = vault.policy(name)
    except NotFoundError:
        if not named(options):
            raise
        if items:
            raise click.UsageError("--item asks about a policy that is there; make it first") from None
        return new_policy(name, options), None
    if not named(options):
        return policy, vault.plan_assignment(items, name, protection=None) if items else None
    if items:
        raise click.UsageError("--item and a change cannot be asked about at once")
    change = vault.plan_policy(name, **changes_of(policy, options))
    return change.after, change
