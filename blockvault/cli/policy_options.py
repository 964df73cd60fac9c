"""The options that make a policy, for `policy create`, `set` and `simulate`: declared once, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from blockvault.policy import RetentionRules
    from blockvault.policy.policies import Policy

NONE = "none"
PERIODS = ("daily", "weekly", "monthly", "yearly")
RULES = ("last", *PERIODS)
SCHEDULE_DEFAULT = "daily 02:00"
KEEP_DAILY_DEFAULT = 30


class _Count(click.ParamType):  # type: ignore[type-arg]
    """A number of points, or `none` for no such rule."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number as it is given; `none` stays."""
        if value == NONE or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        try:
            return int(value)
        except ValueError:
            self.fail(f"'{value}' is no number of points; write a number, or none for no such rule", param, ctx)


def policy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that make or change a policy; what is not named is None (or False)."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS = [
    click.option("--schedule", metavar="WHEN", help="'hourly 4', 'daily 02:00' or 'weekly sun,wed 02:00'."),
    click.option("--zone", metavar="ZONE", help="The time zone of the schedule and of days: Europe/Berlin."),
    click.option("--snapshot-days", type=int, metavar="N", help="Days to keep snapshots for instant restore, 1 to 30."),
    click.option("--keep-last", type=_Count(), metavar="N", help="Keep the N newest points; none: no such rule."),
    click.option("--keep-daily", type=_Count(), metavar="N", help="Keep the newest point of N days that have one."),
    click.option("--keep-weekly", type=_Count(), metavar="N", help="Keep one point of each of N weeks."),
    click.option("--weekly-on", metavar="DAY", help="Which: that of 'sunday'; none: the newest of the week."),
    click.option("--keep-monthly", type=_Count(), metavar="N", help="Keep one point of each of N months."),
    click.option("--monthly-on", metavar="DAY", help="Which: 'first sunday', 'last friday', 'day 15' or 'last day'."),
    click.option("--keep-yearly", type=_Count(), metavar="N", help="Keep one point of each of N years."),
    click.option("--yearly-on", metavar="DAY", help="Which: 'first sunday of january'."),
    click.option("--keep-all", is_flag=True, help="No rule: points are kept for good."),
    click.option("--window", metavar="TIME", help="Spread the starts of its items over so long: 30m."),
    click.option("--consistency", type=click.Choice(["none", "crash", "fs", "app"]), help="What is asked of guests."),
    click.option("--on-hook-failure", type=click.Choice(["warn", "fail"]),
                 help="Where that is not reached: take a crash-consistent point and warn, or take none."),
    click.option("--retries", type=int, metavar="N", help="How often a transfer that failed is tried again."),
    click.option("--comment", metavar="TEXT", help="A comment."),
]  # fmt: skip
NAMES = (
    "schedule", "zone", "snapshot_days", *(f"keep_{rule}" for rule in RULES), "weekly_on", "monthly_on", "yearly_on",
    "keep_all", "window", "consistency", "on_hook_failure", "retries", "comment",
)  # fmt: skip


def named(options: dict[str, Any]) -> bool:
    """Whether any of them was given."""
    return any(options[name] is not None and options[name] is not False for name in NAMES)


def new_policy(name: str, options: dict[str, Any]) -> Policy:
    """A new policy of these options; what is not named is as in the default policy, which keeps 30 days."""
    from dataclasses import replace

    from blockvault.engine.policies import machine_zone
    from blockvault.policy import RetentionRules
    from blockvault.policy.policies import Policy
    from blockvault.policy.schedule import parse_schedule

    zone = options["zone"] or machine_zone()
    rules = RetentionRules(zone=zone)
    if not options["keep_all"] and all(options[f"keep_{rule}"] is None for rule in RULES):
        rules = replace(rules, keep_daily=KEEP_DAILY_DEFAULT)
    blank = Policy(name, parse_schedule(SCHEDULE_DEFAULT, zone=zone), rules)
    return replace(blank, **changes_of(blank, options))


def changes_of(policy: Policy, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a policy that the options change, for `Vault.set_policy`."""
    from dataclasses import replace
    from datetime import timedelta

    from blockvault.model import Consistency, OnHookFailure
    from blockvault.policy.schedule import parse_schedule
    from blockvault.units import parse_span

    changes: dict[str, Any] = {}
    zone = options["zone"]
    if options["schedule"] is not None:
        changes["schedule"] = parse_schedule(options["schedule"], zone=zone or policy.schedule.zone)
    elif zone is not None:
        changes["schedule"] = replace(policy.schedule, zone=zone)
    rules = _rules(policy.retention, options)
    if rules != policy.retention:
        changes["retention"] = rules
    if options["window"] is not None:
        changes["window"] = timedelta(seconds=parse_span(options["window"]))
    if options["consistency"] is not None:
        changes["consistency"] = Consistency(options["consistency"])
    if options["on_hook_failure"] is not None:
        changes["on_hook_failure"] = OnHookFailure(options["on_hook_failure"])
    for field in ("snapshot_days", "retries", "comment"):
        if options[field] is not None:
            changes[field] = options[field]
    return changes


def _rules(rules: RetentionRules, options: dict[str, Any]) -> RetentionRules:
    from dataclasses import replace

    from blockvault.policy import RetentionRules
    from blockvault.policy.selection import parse_month_day, parse_weekday, parse_year_day

    counts = {f"keep_{rule}": options[f"keep_{rule}"] for rule in RULES if options[f"keep_{rule}"] is not None}
    if options["keep_all"]:
        if counts:
            raise click.UsageError("--keep-all leaves no rule: give it alone, or --keep-daily and the like")
        rules = RetentionRules(zone=rules.zone)
    changes: dict[str, Any] = {}
    for rule, count in counts.items():
        changes[rule] = None if count == NONE else count
        chosen = rule.replace("keep_", "") + "_on"
        if count == NONE and chosen in NAMES:
            changes[chosen] = None  # no rule, no day of it
    parsers = {"weekly_on": parse_weekday, "monthly_on": parse_month_day, "yearly_on": parse_year_day}
    for field, parse in parsers.items():
        text = options[field]
        if text is not None:
            changes[field] = None if text == NONE else parse(text)
    if options["zone"] is not None:
        changes["zone"] = options["zone"]
    return replace(rules, **changes)
