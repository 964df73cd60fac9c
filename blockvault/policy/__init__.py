"""How long points are kept: pure functions of (points, rules, now), without input or output.

    periods     in which zone time is cut, and into which days, weeks, months and years
    retention   the rules, and the plan that says of every point of an item: keep or expire, and why

Nothing here reads a clock or a vault, so ten years of retention can be checked in a second.
"""

from blockvault.policy.retention import (
    Decision,
    Reason,
    ReasonKind,
    RetentionPlan,
    RetentionPoint,
    RetentionRules,
    plan,
)

__all__ = ["Decision", "Reason", "ReasonKind", "RetentionPlan", "RetentionPoint", "RetentionRules", "plan"]
