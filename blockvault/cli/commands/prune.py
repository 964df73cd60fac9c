"""`blockvault prune`: expire points by rules, purge what was deleted long enough ago, free the space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import PrunePlan, PruneResult


def _share(_ctx: click.Context, _parameter: click.Parameter, value: str) -> float:
    """`5%` -> 0.05."""
    try:
        share = float(value.rstrip("%")) / 100
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a share; write it like 5%") from None
    if not value.endswith("%") or not 0 <= share <= 1:
        raise click.BadParameter(f"'{value}' is not a share; write it like 5%")
    return share


@click.command("prune")
@click.argument("item", required=False)
@click.option("--keep-last", type=int, metavar="N", help="Keep the N newest points.")
@click.option("--keep-daily", type=int, metavar="N", help="Keep the newest point of N days that have one.")
@click.option("--keep-weekly", type=int, metavar="N", help="Likewise of N weeks.")
@click.option("--keep-monthly", type=int, metavar="N", help="Likewise of N months.")
@click.option("--keep-yearly", type=int, metavar="N", help="Likewise of N years.")
@click.option("--zone", metavar="ZONE", help="The time zone of days: Europe/Berlin; else UTC.")
@click.option("--max-dead", callback=_share, default="60%", show_default=True, metavar="SHARE",
              help="Write packs again of which more than this is dead.")  # fmt: skip
@click.option("--explain", is_flag=True, help="Say of every point why it is kept or expires.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(
    call: Call, item: str | None, max_dead: float, explain: bool, dry_run: bool, yes: bool, **options: Any
) -> int | None:
    """Expire points by rules and free space.

    For each item, or ITEM alone: a point stays that any rule keeps, or that is held; one with a retain-until lives
    until then. All others are deleted, and can be brought back for the vault's soft-delete days. Points deleted
    before that are purged, and what no point needs any more is freed.

    Without rules each item's own policy applies; of an item without one nothing expires but what is past its own
    retain-until. Rules that are given stand in for the policies; all points of an item whose protection is stopped
    are kept, unless ITEM names it and rules are given.
    """
    from blockvault.cli.confirm import confirm
    from blockvault.clock import utc_now
    from blockvault.engine.expire import doubts_of
    from blockvault.jobs.noted import Noted, problem_of
    from blockvault.model.job import Operation
    from blockvault.policy import RetentionRules
    from blockvault.reports.alerts import held_by_alerts
    from blockvault.reports.notify import load_channels

    given = RetentionRules(
        **{f"keep_{name}": options[f"keep_{name}"] for name in ("last", "daily", "weekly", "monthly", "yearly")},
        zone=options["zone"] or "UTC",
    )
    if given.is_empty and options["zone"]:
        raise click.UsageError("--zone goes with rules like --keep-daily; a policy has its own")
    rules = None if given.is_empty else given
    with call.open_vault() as vault, call.job() as monitor:
        held = held_by_alerts(vault, utc_now(), load_channels(vault.state_dir))
        plan = vault.plan_prune(rules, item=item, max_dead=max_dead, held_items=held, monitor=monitor)
        if explain and not call.output.as_json:
            _explain(call, plan)
        if dry_run:
            _show_plan(call, plan)
            return None
        for doubt in doubts_of(plan):
            confirm(f"{doubt.message} ({doubt.why}). Go on?", yes=yes, refusal=doubt)
        with Noted(vault, Operation.PRUNE, monitor) as noted:
            noted.started()
            result = vault.prune(plan, confirmed=True, monitor=monitor)
            noted.done(problem=problem_of(result.problem) if result.problem else None)
    _show(call, plan, result)
    if held:
        call.warn((f"nothing was ended of {len(held)} held item{'s' * (len(held) != 1)}: see `blockvault alert list`",))
    if result.problem is not None:
        raise result.problem
    return None


def _fields(plan: PrunePlan) -> dict[str, Any]:
    return {
        "decisions": [
            {
                "label": decision.label,
                "point": decision.ref.number,
                "item": decision.item,
                "taken": decision.taken,
                "keep": decision.keep,
                "reasons": decision.reasons,
            }
            for decision in plan.decisions
        ],
        "to_purge": [label for _, label in plan.purges],
        "freeable_bytes": plan.freeable_bytes,
        "left_dead_bytes": plan.left_dead_bytes,
        "emptied_items": plan.emptied_items,
        "clock_doubt": plan.clock_doubt,
        "vanished": plan.vanished,
        "soft_delete_days": plan.soft_delete_days,
    }


def _explain(call: Call, plan: PrunePlan) -> None:
    from blockvault.cli.render import moment

    rows = [
        (decision.label, decision.item, moment(decision.taken), "keep" if decision.keep else "expire",
         "; ".join(decision.reasons))
        for decision in plan.decisions
    ]  # fmt: skip
    call.output.table((">point", "item", "taken", "", "because"), rows)


def _show_plan(call: Call, plan: PrunePlan) -> None:
    from blockvault.engine.expire import doubts_of
    from blockvault.units import format_size

    if call.output.as_json:
        call.output.document({"message_type": "summary", "schema": "blockvault.prune-plan/1", **_fields(plan)})
        return
    expired = [decision.label for decision in plan.decisions if not decision.keep]
    kept = len(plan.decisions) - len(expired)
    facts = [
        ("keep", str(kept)),
        ("expire", _labels(expired) + _recoverable(expired, plan.soft_delete_days)),
        ("purge", _labels([label for _, label in plan.purges])),
        ("free", format_size(plan.freeable_bytes)),
    ]
    if plan.left_dead_bytes:
        facts.append(("leave", f"{format_size(plan.left_dead_bytes)} dead in packs that are mostly alive (--max-dead)"))
    facts += [("asks first", f"{doubt.message} ({doubt.why})") for doubt in doubts_of(plan)]
    call.output.facts("dry run: nothing was changed", facts)


def _recoverable(expired: list[str], days: int) -> str:
    return f"   (can be brought back for {days} days)" if expired and days else ""


def _labels(labels: list[str]) -> str:
    if not labels:
        return "none"
    shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    return f"{len(labels)}: {shown}" if len(labels) > 1 else f"point {shown}"


def _show(call: Call, plan: PrunePlan, result: PruneResult) -> None:
    from blockvault.units import format_size

    freed = result.reclaim
    if call.output.as_json:
        call.output.document(
            {
                "message_type": "summary",
                "schema": "blockvault.prune/1",
                **_fields(plan),
                "expired": result.expired,
                "purged": result.purged,
                "freed_bytes": freed.freed_bytes,
                "moved_bytes": freed.moved_bytes,
                "deleted_packs": freed.deleted_packs,
                "rewritten_packs": freed.rewritten_packs,
                "deleted_layers": freed.deleted_layers,
                "waiting_objects": freed.waiting_objects,
                "waiting_for": sorted(freed.waiting_for),
            }
        )
        return
    if call.output.quiet:
        return
    facts = [
        ("expired", _labels(result.expired) + _recoverable(result.expired, plan.soft_delete_days)),
        ("purged", _labels(result.purged)),
    ]
    if result.problem is None:
        packs = f"{freed.deleted_packs} packs deleted, {freed.rewritten_packs} written again"
        facts.append(("freed", f"{format_size(freed.freed_bytes):<10} {packs}, {freed.deleted_layers} layers deleted"))
        if freed.left_dead_bytes:
            left = "dead in packs that are mostly alive" + ("; --max-dead 5% frees it" if plan.max_dead > 0.05 else "")
            facts.append(("left", f"{format_size(freed.left_dead_bytes):<10} {left}"))
        if freed.waiting_objects:
            jobs = ", ".join(sorted(freed.waiting_for)) or "a job"
            waits = f"{freed.waiting_objects} objects until running work has ended ({jobs}); the next prune frees them"
            facts.append(("waits", waits))
    call.output.facts("pruned" if result.problem is None else "expired, but not all of the space was freed", facts)
