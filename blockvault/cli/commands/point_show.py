"""`blockvault point show`: all that is known of one point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import PointInfo, PruneDecision


@click.command("show")
@click.argument("point", metavar="P")
@leaf()
def command(call: Call, point: str) -> int | None:
    """Show all that is known of a point.

    P is N, an id or the first 4 or more characters of one, ITEM@latest, ITEM@-1 or ITEM@2026-11-20T02:00.
    """
    with call.open_vault() as vault:
        info = vault.point(point, deleted=True)
        known = vault.decisions(info.item).get(info.point.ref) if info.point is not None else None
    from blockvault.cli.views import point_fields

    if call.output.as_json:
        call.output.document({"schema": "blockvault.point/1", **point_fields(info, known), "disks": _disk_fields(info)})
    else:
        call.output.facts(f"point {info.label} of item '{info.item}'", _facts(info, known))
    return None


def _disk_fields(info: PointInfo) -> list[dict[str, object]]:
    disks = info.point.disks if info.point else ()
    return [
        {
            "disk": disk.name,
            "path": disk.path,
            "size_bytes": disk.size,
            "chunk_bytes": disk.chunk_size,
            "layers": len(disk.layers),
        }
        for disk in disks
    ]


def _facts(info: PointInfo, decision: PruneDecision | None = None) -> list[tuple[str, str]]:
    from blockvault.cli.render import moment
    from blockvault.cli.views import consistency_text, counted, figures, instant_facts, kept_text, tier_text
    from blockvault.clock import utc_now
    from blockvault.units import format_size

    facts = [
        ("id", info.id),
        ("taken", moment(info.taken, utc_now())),
        ("tier", tier_text(info.tier)),
        ("consistency", consistency_text(info.consistency.value)),
        *instant_facts(info),
        ("disk size", format_size(info.size_bytes)),
    ]
    if info.point is not None:
        parent = info.point.parent
        facts.append(("parent", "none: initial transfer" if parent is None else f"point {parent.number}"))
        facts.append(("churn from", f"{info.point.churn_source.value}; {info.point.audit}"))
        facts += figures(info.statistics)
        facts += [
            (f"disk {disk.name}", f"{format_size(disk.size)}, {counted(len(disk.layers), 'layer')}, from {disk.path}")
            for disk in info.point.disks
        ]
    facts.append(("kept until", kept_text(info, decision)))
    if info.state.held_reason:
        facts.append(("held because", info.state.held_reason))
    if info.state.deleted is not None:
        why = f": {info.state.deleted_reason}" if info.state.deleted_reason else ""
        facts.append(("deleted", moment(info.state.deleted) + why))
    if info.snapshot_until:
        facts.append(("snapshot until", moment(info.snapshot_until)))
    facts += [(f"tag {key}", value) for key, value in sorted(info.tags.items())]
    if info.comment:
        facts.append(("comment", info.comment))
    return facts
