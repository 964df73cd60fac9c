"""Choices that change meaning, as enums; the integers are those of the format and of the native core."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ChunkState(IntEnum):
    """What a scan found of a chunk."""

    HOLE = 0
    ZERO = 1
    UNCHANGED = 2
    CHANGED = 3


class Codec(IntEnum):
    """How a block is stored. `EMPTY` marks a slot that reclaim has emptied; its id stays in the table."""

    RAW = 0
    ZSTD = 1
    DELTA = 2
    EMPTY = 255


class FillKind(IntEnum):
    """What a manifest says of a chunk that has no block, or `DATA` if it has one."""

    UNSTATED = 0
    HOLE = 1
    ZERO = 2
    DATA = 3


class Consistency(StrEnum):
    """What the guest promised at capture, as far as it was really reached."""

    NONE = "none"
    CRASH = "crash"
    FILE_SYSTEM = "fs"
    APPLICATION = "app"


class OnHookFailure(StrEnum):
    """What becomes of a job that did not reach the consistency that was asked for: a script or a freeze failed."""

    WARN = "warn"  # a crash-consistent point, and the job is completed-with-warning
    FAIL = "fail"  # no point


class Protection(StrEnum):
    """Whether a policy takes an item's points and ends them."""

    NONE = "none"  # never was protected: points are taken by hand
    PROTECTED = "protected"
    STOPPED = "stopped"  # no more points are taken, and those that are there are kept


class ChurnSource(StrEnum):
    """What told the churn of a point."""

    INITIAL = "initial"  # no parent: all data
    SCAN = "scan"  # digests of every chunk against the parent's
    REFLINK = "reflink"  # where the extents of two snapshots differ; audited by reading others
    IDENTITY = "identity"  # identity of every chunk against the parent's


class Tier(StrEnum):
    """Where a point can be restored from."""

    SNAPSHOT = "snapshot"
    VAULT = "vault"
    BOTH = "snapshot+vault"
