"""`blockvault points`: the list of recovery points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import PointInfo, PointRef, PruneDecision

COLUMNS = (">point", "item", "taken", "tier", "consistency", ">size", ">churn", ">stored", "kept until")


@click.command("points")
@click.argument("item", required=False)
@click.option("--deleted", is_flag=True, help="Those too that are deleted and can be brought back.")
@leaf()
def command(call: Call, item: str | None, deleted: bool) -> int | None:
    """List recovery points.

    All of the vault's, or those of ITEM. The first column is what `restore --point` takes, the last says until when a
    point is kept, or by which rules of its item's policy.
    """
    with call.open_vault() as vault:
        infos = vault.points(item, deleted=deleted)
        decisions = vault.decisions() if infos else {}
    from blockvault.cli.views import kept_text, point_fields

    if call.output.as_json:
        fields = [point_fields(info, _decision(info, decisions)) for info in infos]
        call.output.document({"schema": "blockvault.points/1", "points": fields})
        return None
    if not infos:
        call.output.note("no points yet; `blockvault snapshot DISK` takes the first")
        return None
    from blockvault.cli.render import moment
    from blockvault.clock import utc_now
    from blockvault.units import format_size

    now = utc_now()
    rows = [
        (
            info.label,
            info.item,
            moment(info.taken, now),
            info.tier.value,
            info.consistency.value,
            format_size(info.size_bytes),
            format_size(info.statistics.changed_bytes) if info.churn_source else "-",
            format_size(info.statistics.stored_bytes) if info.churn_source else "-",
            kept_text(info, _decision(info, decisions)),
        )
        for info in infos
    ]
    call.output.table(COLUMNS, rows)
    return None


def _decision(info: PointInfo, decisions: dict[PointRef, PruneDecision]) -> PruneDecision | None:
    return decisions.get(info.point.ref) if info.point is not None else None
