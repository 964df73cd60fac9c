"""Policies and what changes of them come to, as facts for people and fields for programs."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from blockvault.cli.render import moment
from blockvault.cli.views import counted
from blockvault.policy.periods import zone_named
from blockvault.policy.policies import UNWRITTEN, oddities_of
from blockvault.policy.retention import ReasonKind
from blockvault.policy.simulate import LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from blockvault.cli.call import Call
    from blockvault.model import Item
    from blockvault.policy import RetentionRules
    from blockvault.policy.policies import Policy, PolicyChange, PolicyRevision
    from blockvault.policy.simulate import Simulation

RUNS_SHOWN = 5
ODD_DAYS = 366  # how far ahead runs are looked for that daylight saving moves
_PERIODS = {"daily": "day", "weekly": "week", "monthly": "month", "yearly": "year"}
_ITEMS_SHOWN = 12


def keeps_text(rules: RetentionRules) -> str:
    """`30 days; 12 weeks on sunday; 12 months on first sunday`."""
    if rules.is_empty:
        return "all points, for good"
    parts = [] if rules.keep_last is None else [f"the {counted(rules.keep_last, 'newest point')}"]
    for rule, noun in _PERIODS.items():
        count = getattr(rules, f"keep_{rule}")
        if count is not None:
            on = _on_text(rules, rule)
            parts.append(counted(count, noun) + (f" on {on}" if on else ""))
    return "; ".join(parts)


def _on_text(rules: RetentionRules, rule: str) -> str | None:
    chosen = getattr(rules, f"{rule}_on", None)
    if chosen is None:
        return None
    return chosen.name.lower() if rule == "weekly" else str(chosen)


def run_text(run: datetime, policy: Policy) -> str:
    """`Sun 2026-11-29 02:00 +01:00`, by the wall clock of the schedule's zone."""
    wall = run.astimezone(zone_named(policy.schedule.zone))
    return f"{wall:%a %Y-%m-%d %H:%M} {wall.isoformat()[-6:]}"


def odd_runs(policy: Policy, now: datetime) -> list[tuple[datetime, str]]:
    """The runs of the next year that daylight saving moves or would double, and how."""
    found = []
    for run in policy.schedule.after(now):
        if run > now + timedelta(days=ODD_DAYS):
            break
        odd = policy.schedule.oddity(run)
        if odd:
            found.append((run, odd))
    return found


def policy_facts(
    policy: Policy, revision: PolicyRevision | None, items: Sequence[Item], now: datetime
) -> list[tuple[str, str]]:
    """All that is known of a policy, its next runs and who uses it."""
    span = int(policy.window.total_seconds()) // 60
    spread = f"; starts are spread over {span} min" if span else ""
    facts = [
        ("schedule", f"{policy.schedule}, {policy.schedule.zone}{spread}"),
        ("snapshots", f"kept {counted(policy.snapshot_days, 'day')}"),
        ("keeps", keeps_text(policy.retention)),
    ]
    if policy.retention.zone != policy.schedule.zone:
        facts.append(("days of", policy.retention.zone))
    facts.append(
        ("consistency", f"asked: {policy.consistency.value}; where it is not reached: {policy.on_hook_failure.value}")
    )
    facts.append(("retries", str(policy.retries)))
    if policy.comment:
        facts.append(("comment", policy.comment))
    if revision is None:
        facts.append(("revision", "none: it is offered, and written when it is first assigned"))
    else:
        by = f" by {revision.by}" if revision.by else ""
        facts.append(("revision", f"{policy.revision}, of {moment(revision.changed)}{by}"))
        if revision.note:
            facts.append(("note", revision.note))
    names = [item.name + ("" if item.protection.value == "protected" else f" ({item.protection.value})")
             for item in items]  # fmt: skip
    more = f" and {len(names) - _ITEMS_SHOWN} more" if len(names) > _ITEMS_SHOWN else ""
    facts.append(("used by", f"{counted(len(names), 'item')}: {', '.join(names[:_ITEMS_SHOWN])}{more}"
                  if names else "no item"))  # fmt: skip
    for number, run in enumerate(islice(policy.schedule.after(now), RUNS_SHOWN)):
        odd = policy.schedule.oddity(run)
        facts.append(("next runs" if number == 0 else "", run_text(run, policy) + (f"   {odd}" if odd else "")))
    for number, (run, odd) in enumerate(odd_runs(policy, now)):
        facts.append(("odd runs" if number == 0 else "", f"{run_text(run, policy)}   {odd}"))
    return facts


def policy_fields(
    policy: Policy, revision: PolicyRevision | None, items: Sequence[Item], now: datetime
) -> dict[str, Any]:
    """The same for `--json`."""
    rules = policy.retention
    return {
        "policy": policy.name,
        "revision": None if policy.revision == UNWRITTEN else policy.revision,
        "schedule": str(policy.schedule),
        "zone": policy.schedule.zone,
        "retention": {
            **dict(rules.counts()),
            **{f"{rule}_on": _on_text(rules, rule) for rule in _PERIODS if rule != "daily"},
            "zone": rules.zone,
        },
        "snapshot_days": policy.snapshot_days,
        "window_seconds": int(policy.window.total_seconds()),
        "consistency": policy.consistency,
        "on_hook_failure": policy.on_hook_failure,
        "retries": policy.retries,
        "comment": policy.comment,
        "changed": revision.changed if revision else None,
        "changed_by": revision.by if revision else None,
        "note": revision.note if revision else "",
        "items": [{"item": item.name, "protection": item.protection} for item in items],
        "next_runs": [
            {"at": run, "odd": policy.schedule.oddity(run)} for run in islice(policy.schedule.after(now), RUNS_SHOWN)
        ],
        "odd_runs": [{"at": run, "odd": odd} for run, odd in odd_runs(policy, now)],
        "warnings": oddities_of(policy),
    }


def show_policy(
    call: Call, policy: Policy, revision: PolicyRevision | None, items: Sequence[Item], now: datetime
) -> None:
    """A policy, for people or programs."""
    if call.output.as_json:
        kind = {"message_type": "summary"} if call.monitor is not None else {}  # the last of JSON lines
        fields = policy_fields(policy, revision, items, now)
        call.output.document({**kind, "schema": "blockvault.policy/1", **fields})
    else:
        call.output.facts(f"policy '{policy.name}'", policy_facts(policy, revision, items, now))


def warn_of_oddities(call: Call, policy: Policy) -> None:
    """What is allowed about a policy and probably not meant."""
    call.warn(tuple(oddity.message for oddity in oddities_of(policy)))


def change_fields(change: PolicyChange) -> dict[str, Any]:
    """What a change comes to, for `--json`."""
    return {
        "policy": change.after.name,
        "items": change.items,
        "is_shorter": change.is_shorter,
        "would_expire": len(change.expired),
        "would_expire_items": len({each.item for each in change.expired}),
        "expired": [
            {"label": each.label, "point": each.ref.number, "item": each.item, "taken": each.taken}
            for each in change.expired
        ],
    }


def show_change(call: Call, change: PolicyChange, title: str) -> None:
    """What a change would come to; nothing was changed."""
    if call.output.as_json:
        fields = change_fields(change)
        call.output.document({"message_type": "summary", "schema": "blockvault.policy-change/1", **fields})
        return
    facts = [("items", f"{len(change.items)}: {', '.join(change.items[:_ITEMS_SHOWN])}" if change.items else "none")]
    facts.append(("keeps", keeps_text(change.after.retention)))
    facts.append(("expires", change.told))
    by_item: dict[str, list[str]] = {}
    for each in change.expired:
        by_item.setdefault(each.item, []).append(each.label)
    for item, labels in sorted(by_item.items()):
        more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
        facts.append((f"  of {item}", f"{len(labels)}: {', '.join(labels[:20])}{more}"))
    call.output.facts(title, facts)


def simulation_fields(simulation: Simulation) -> dict[str, Any]:
    """A simulation for `--json`."""
    return {
        "policy": simulation.policy.name,
        "schedule": str(simulation.policy.schedule),
        "now": simulation.now,
        "months": [{"month": month, "days": row} for month, row in simulation.rows()],
        "taken": len(simulation.decisions),
        "kept": len(simulation.kept),
        "kept_by": {kind.value: count for kind, count in simulation.counts().items()},
        "points": [
            {"taken": each.point.taken, "reasons": [str(reason) for reason in each.reasons]} for each in simulation.kept
        ],
        "legend": {letter: kind.value for kind, letter in LETTERS.items()},
    }


def draw(call: Call, simulation: Simulation) -> None:
    """The picture of a simulation: a row a month, a mark a day, and what the marks mean."""
    policy = simulation.policy
    call.output.line(
        call.output.paint(
            f"policy '{policy.name}': {policy.schedule}, {policy.schedule.zone}; keeps {keeps_text(policy.retention)}",
            "bold", call.output.results,
        )
    )  # fmt: skip
    call.output.line("         1   5    10   15   20   25   30")
    for month, row in simulation.rows():
        call.output.line(f"{month}  {row}".rstrip())
    counts = simulation.counts()
    meanings = {
        ReasonKind.YEARLY: "yearly", ReasonKind.MONTHLY: "monthly", ReasonKind.WEEKLY: "weekly",
        ReasonKind.DAILY: "daily", ReasonKind.LAST: "last", ReasonKind.NO_RULES: "all, for good",
        ReasonKind.NEWEST: "the newest",
    }  # fmt: skip
    call.output.line()
    for kind, count in counts.items():
        rules = policy.retention
        on = _on_text(rules, kind.value) if kind.value in _PERIODS else None
        limit = getattr(rules, f"keep_{kind.value}", None)
        of = f" of {limit}" if limit is not None else ""
        call.output.line(f"  {LETTERS[kind]}  {meanings[kind]}: {count}{of}" + (f", on {on}" if on else ""))
    call.output.line("  .  expired")
    taken = len(simulation.decisions)
    months = counted(len(simulation.months), "month")
    call.output.line(f"  {len(simulation.kept)} of {counted(taken, 'point')} that {months} take are left at the end;"
                     " a day kept by several rules shows the longest-lived")  # fmt: skip
