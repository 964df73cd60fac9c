"""`blockvault policy list`: the policies of a vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("list")
@leaf()
def command(call: Call) -> int | None:
    """List policies.

    Where the vault has none of that name, `default` is offered: it is written when it is first assigned.
    """
    from blockvault.clock import utc_now

    with call.open_vault() as vault:
        found = [
            (policy, None if policy.revision < 0 else vault.policy_revision(policy.name),
             vault.items_of_policy(policy.name))
            for policy in vault.policies()
        ]  # fmt: skip
        unreadable = vault.unreadable_policies()
    from blockvault.cli.policy_views import keeps_text, policy_fields, run_text

    now = utc_now()
    if call.output.as_json:
        fields = [policy_fields(*each, now) for each in found]
        call.output.document({"schema": "blockvault.policies/1", "policies": fields, "unreadable": unreadable})
    else:
        rows = []
        for policy, revision, items in found:
            run = policy.schedule.next_after(now)
            rows.append(
                (policy.name, f"{policy.schedule}, {policy.schedule.zone}", keeps_text(policy.retention),
                 str(policy.snapshot_days), str(len(items)) if revision is not None else "offered",
                 run_text(run, policy) if run else "-")
            )  # fmt: skip
        call.output.table(("policy", "schedule", "keeps", ">snapshot days", ">items", "next run"), rows)
    call.warn(tuple(f"policy '{name}' cannot be read: no point of its items expires" for name in unreadable))
    return None
