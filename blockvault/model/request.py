"""What a user asks of `snapshot`, and of `verify`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from blockvault.model.enums import Consistency, OnHookFailure


@dataclass(frozen=True, slots=True)
class VerifyBudget:
    """How much one `verify` may do: so many seconds, stored bytes, or a share (0 to 1) of what points need."""

    seconds: float | None = None
    byte_count: int | None = None
    share: float | None = None


class Phase2(StrEnum):
    """When the churn of a captured snapshot is transferred."""

    NOW = "now"
    LATER = "later"
    LATER_IF_KEPT = "later-if-kept"  # at once where no snapshot can be kept: there would be nothing to transfer later


class Keep(StrEnum):
    """Whether a snapshot is kept in the instant-restore tier."""

    YES = "yes"
    IF_CHEAP = "if-cheap"  # not where all data would have to be copied for it
    NO = "no"


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """The words of one `snapshot`; `Vault.snapshot` explains each."""

    targets: list[str]
    name: str | None = None
    keep: Keep = Keep.YES
    phase2: Phase2 = Phase2.NOW
    full: bool = False
    consistency: Consistency = Consistency.CRASH
    tags: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    retain_until: datetime | None = None
    level: int = 1
    on_hook_failure: OnHookFailure = OnHookFailure.WARN
    job: str = ""
