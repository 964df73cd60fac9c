"""How long points are kept: pure functions of (points, rules, now), without input or output.

    periods     in which zone time is cut, and into which days, weeks, months and years
    selection   the day of a week, month or year whose point is kept, as values and as text
    schedule    when points are taken
    retention   the rules, and the plan that says of every point of an item: keep or expire, and why
    policies    a policy: schedule, retention, snapshot days, and how points are taken; what is wrong or odd about one
    simulate    which points a policy would leave, over months

Nothing here reads a clock or a vault, so ten years of retention can be checked in a second.
"""

from blockvault.policy.retention import (
    Decision,
    Reason,
    ReasonKind,
    RetentionPlan,
    RetentionPoint,
    RetentionRules,
    keep_all,
    plan,
)

__all__ = ["Decision", "Reason", "ReasonKind", "RetentionPlan", "RetentionPoint", "RetentionRules", "keep_all", "plan"]
