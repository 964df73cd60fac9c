"""What several commands show alike: the figures of a job, a point, an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockvault.cli.render import moment
from blockvault.model import PointInfo, PointStatistics, SnapshotResult, Tier
from blockvault.units import format_seconds, format_size

if TYPE_CHECKING:
    from datetime import datetime

    from blockvault.cli.call import Call
    from blockvault.model import Item, PruneDecision, VerifyCoverage

    Facts = list[tuple[str, str]]


def figures(statistics: PointStatistics) -> Facts:
    """The five figures of a job, each with what it counts."""
    return [
        ("read", f"{format_size(statistics.read_bytes):<10} from the disk image and its snapshot"),
        ("changed", f"{format_size(statistics.changed_bytes):<10} in {counted(statistics.changed_chunks, 'chunk')}"),
        ("unique", f"{format_size(statistics.unique_bytes):<10} of it new to the vault"),
        ("stored", f"{format_size(statistics.stored_bytes):<10} after compression, with all records"),
        ("sent", f"{format_size(statistics.sent_bytes):<10} written to the vault"),
    ]


def figure_fields(statistics: PointStatistics) -> dict[str, int]:
    """The same for `--json`."""
    return {
        "read_bytes": statistics.read_bytes,
        "changed_bytes": statistics.changed_bytes,
        "changed_chunks": statistics.changed_chunks,
        "unique_bytes": statistics.unique_bytes,
        "stored_bytes": statistics.stored_bytes,
        "sent_bytes": statistics.sent_bytes,
    }


def snapshot_facts(result: SnapshotResult, restore_command: str) -> Facts:
    """The summary of a job that made or transferred a point."""
    churn = f"{result.churn_source.value}; {result.audit}" if result.churn_source else "not transferred yet"
    parts = [
        f"{name} {format_seconds(seconds)}"
        for name, seconds in (("capture", result.capture_seconds), ("transfer", result.transfer_seconds))
        if seconds >= 0.005
    ]
    facts = figures(result.statistics) if result.churn_source else []
    facts += [
        ("churn from", churn.rstrip("; ")),
        ("disk size", format_size(result.size_bytes)),
        ("tier", tier_text(result.tier)),
        ("consistency", consistency_text(result.consistency.value)),
        *instant_facts(result),
        ("time", format_seconds(result.seconds) + (f"  ({', '.join(parts)})" if parts else "")),
    ]
    if result.snapshot_folder:
        facts.append(("snapshot in", result.snapshot_folder))
    if result.tier is not Tier.SNAPSHOT:
        facts.append(("vault in", result.vault_path))
    facts.append(("restore with", restore_command))
    return facts


def instant_facts(told: SnapshotResult | PointInfo) -> Facts:
    """How long the guest stood still for a point, and how far apart its disks and those of its group may be."""
    facts: Facts = []
    if told.freeze_ms is not None:
        facts.append(("frozen for", f"{told.freeze_ms:.1f} ms"))
    if told.group:
        facts.append(("group", f"{told.group}: captured at one instant"))
    if told.skew_ms is not None:
        facts.append(("disks within", f"{told.skew_ms:.1f} ms of each other"))
    return facts


def snapshot_fields(result: SnapshotResult, restore_command: str) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "item": result.item,
        "point": result.number,
        "id": result.id,
        "tier": result.tier,
        "consistency": result.consistency,
        "freeze_ms": result.freeze_ms,
        "skew_ms": result.skew_ms,
        "group": result.group or None,
        **figure_fields(result.statistics),
        "churn_source": result.churn_source,
        "audit": result.audit,
        "seconds": result.seconds,
        "capture_seconds": result.capture_seconds,
        "transfer_seconds": result.transfer_seconds,
        "job_state": result.job_state,
        "size_bytes": result.size_bytes,
        "vault": result.vault,
        "vault_path": result.vault_path,
        "vault_created": result.vault_created,
        "snapshot_folder": result.snapshot_folder,
        "restore_command": restore_command,
        "warnings": result.warnings,
    }


def point_fields(info: PointInfo, decision: PruneDecision | None = None) -> dict[str, Any]:
    """A point for `--json`; `decision` is what its item's policy says of it."""
    until, rule = kept(info, decision)
    return {
        "point": info.number,
        "label": info.label,
        "id": info.id,
        "item": info.item,
        "taken": info.taken,
        "tier": info.tier,
        "consistency": info.consistency,
        "freeze_ms": info.freeze_ms,
        "skew_ms": info.skew_ms,
        "group": info.group or None,
        "size_bytes": info.size_bytes,
        **figure_fields(info.statistics),
        "churn_source": info.churn_source,
        "kept_until": until,
        "kept_by": rule,
        "expires_with_prune": decision is not None and not decision.keep,
        "snapshot_until": info.snapshot_until,
        "tags": info.tags,
        "comment": info.comment,
        "held": info.state.held,
        "held_reason": info.state.held_reason,
        "deleted": info.state.deleted,
        "purge_after": info.state.purge_after,
    }


def coverage_facts(coverage: VerifyCoverage) -> Facts:
    """How much of what points need was verified of late."""
    if coverage.counted is None:
        return [("verified", "never, as far as this machine knows")]
    share = coverage.verified_bytes / coverage.needed_bytes if coverage.needed_bytes else 1.0
    told = f"{share:.0%} of {format_size(coverage.needed_bytes)} within {counted(coverage.days, 'day')}"
    if coverage.never_bytes:
        told += f"; {format_size(coverage.never_bytes)} never"
    facts = [("verified", told)]
    if coverage.oldest is not None:
        facts.append(("oldest", moment(coverage.oldest)))
    return facts


def coverage_fields(coverage: VerifyCoverage | None) -> dict[str, Any] | None:
    """The same for `--json`."""
    if coverage is None:
        return None
    return {
        "within_days": coverage.days,
        "needed_bytes": coverage.needed_bytes,
        "verified_bytes": coverage.verified_bytes,
        "never_bytes": coverage.never_bytes,
        "oldest": coverage.oldest,
        "newest": coverage.newest,
        "counted": coverage.counted,
    }


def show_marked(call: Call, info: PointInfo, told: str) -> None:
    """A point after a mark was put on it."""
    if call.output.as_json:
        call.output.document({"schema": "blockvault.point/1", **point_fields(info)})
    elif not call.output.quiet:
        call.output.line(f"point {info.label} of item '{info.item}' {told}")


def item_fields(item: Item, snapshot_days: int) -> dict[str, Any]:
    """An item for `--json`; `snapshot_days` is what applies to it."""
    return {
        "item": item.name,
        "id": item.id,
        "disks": [{"disk": disk.name, "path": disk.path} for disk in item.disks],
        "chunk_bytes": item.chunk_size,
        "created": item.created,
        "snapshot_days": snapshot_days,
        "snapshot_dir": item.snapshot_dir,
        "comment": item.comment,
        "policy": item.policy or None,
        "protection": item.protection,
        "group": item.group or None,
        "agent_socket": item.agent_socket or None,
        "freeze_mounts": item.freeze_mounts,
        "hook_seconds": item.hook_seconds,
    }


def policy_text(item: Item) -> str:
    """The policy that an item goes by: `nightly`, `nightly (stopped)`, or `-`."""
    if item.protection.value == "stopped":
        return f"{item.policy or '-'} (stopped)"
    return item.policy or "-"


def kept(info: PointInfo, decision: PruneDecision | None = None) -> tuple[datetime | None, str]:
    """Until when a point is kept and by which rule; None: no rule ends it, or its policy does when newer ones come."""
    if info.state.held:
        return None, "held"
    if info.state.deleted is not None:
        return info.state.purge_after, "deleted"
    if info.kept_until is not None:
        return info.kept_until, "retain-until"
    if info.tier is Tier.SNAPSHOT:
        return info.snapshot_until, "snapshot days"
    if decision is None or "no rules" in decision.reasons:
        return None, "no rule"
    return None, "; ".join(decision.reasons)


def kept_text(info: PointInfo, decision: PruneDecision | None = None) -> str:
    """`2026-12-20 02:00 (retain-until)`, `held`, `daily 2026-11-20; weekly 2026-W47`, `next prune`, or `no end`."""
    until, rule = kept(info, decision)
    if until is not None:
        return f"{moment(until)} ({rule})"
    if rule == "no rule":
        return "no end"
    return rule if decision is None or decision.keep else f"next prune ({rule})"


def tier_text(tier: Tier) -> str:
    """Where a point can be restored from, in words."""
    return {
        Tier.SNAPSHOT: "snapshot: instant, on this machine only",
        Tier.VAULT: "vault",
        Tier.BOTH: "snapshot+vault: instant from here, or from the vault",
    }[tier]


def consistency_text(consistency: str) -> str:
    """What the guest promised, in words."""
    return {
        "none": "none: the image may have been written while it was read",
        "crash": "crash-consistent",
        "fs": "file-system-consistent",
        "app": "application-consistent",
    }[consistency]


def counted(count: int, noun: str) -> str:
    """`1 layer`, `3 layers`."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"
