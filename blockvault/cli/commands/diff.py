"""`blockvault diff`: where two states of an item differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import DiffResult

EXTENTS_SHOWN = 20
_SHADES = " ▁▂▃▄▅▆▇█"
_SHADES_ASCII = " .:-=+*%#"


@click.command("diff")
@click.argument("left", metavar="P")
@click.argument("right", metavar="P|DISK", required=False)
@click.option("--disk", metavar="NAME", help="Only this disk.")
@click.option("--exit-code", is_flag=True, help="End with 1 if they differ, with 0 if not.")
@leaf()
def command(call: Call, left: str, right: str | None, disk: str | None, exit_code: bool) -> int | None:
    """Show where two points differ, or a point and a disk image.

    Without a second argument the point is compared with its parent point.
    """
    with call.open_vault() as vault, call.job() as monitor:
        result = vault.diff(left, right, disk=disk, monitor=monitor)
    if call.output.as_json:
        call.output.document(
            {
                "message_type": "summary",
                "schema": "blockvault.diff/1",
                "left": result.left,
                "right": result.right,
                "changed_bytes": result.changed_bytes,
                "size_bytes": result.size_bytes,
                "extents": [
                    {"disk": extent.disk, "offset": extent.offset, "byte_count": extent.byte_count}
                    for extent in result.extents
                ],
                "pictures": result.pictures,
            }
        )
    else:
        _show(call, result)
    return 1 if exit_code and result.changed_bytes else None


def _show(call: Call, result: DiffResult) -> None:
    from blockvault.units import format_size

    output = call.output
    share = 100 * result.changed_bytes / max(1, result.size_bytes)
    output.facts(
        f"{result.left} against {result.right}",
        [
            ("changed", f"{format_size(result.changed_bytes)} of {format_size(result.size_bytes)} ({share:.2f}%)"),
            ("extents", str(len(result.extents))),
            *[
                (f"disk {name}", f"|{_picture(shares, output.results.encoding)}|")
                for name, shares in result.pictures.items()
            ],
        ],
    )
    shown = result.extents if output.verbose else result.extents[:EXTENTS_SHOWN]
    if shown and not output.quiet:
        output.line()
        rows = [
            (extent.disk, str(extent.offset), str(extent.byte_count), format_size(extent.byte_count))
            for extent in shown
        ]
        output.table(("disk", ">offset", ">bytes", ">size"), rows)
        if len(shown) < len(result.extents):
            output.note(f"{len(result.extents) - len(shown)} more extents; -v or --json lists all")


def _picture(shares: tuple[float, ...], encoding: str | None) -> str:
    """One sign for each of the equal pieces of the disk: the fuller, the more of it changed; any change shows."""
    shades = _SHADES if (encoding or "").lower().replace("-", "") == "utf8" else _SHADES_ASCII
    last = len(shades) - 1
    return "".join(shades[0 if share <= 0 else max(1, min(last, round(share * last)))] for share in shares)
