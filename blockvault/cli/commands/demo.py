"""`blockvault demo`: everything once, on a small disk image of its own."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.demo import DemoReport


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep the folder with the image, the vault and the restored disks.")
@leaf(vault=False)
def command(call: Call, keep: bool) -> int | None:
    """Try everything on a small disk image made of this machine's files.

    Takes a point, changes the image, takes another, restores both and compares every byte. Nothing of yours is
    touched; about 600 MiB of the temporary folder are used for some seconds.
    """
    from blockvault.demo import run_demo

    folder = tempfile.mkdtemp(prefix="blockvault-demo-")
    try:
        with call.job() as monitor:
            report = run_demo(folder, tell=lambda text: _tell(call, text), monitor=monitor)
        _show(call, report, keep)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return None if report.good else ExitCode.FAILED


def _tell(call: Call, text: str) -> None:
    if not call.output.quiet and not call.output.as_json:
        call.output.message("*", text, "cyan")


def _show(call: Call, report: DemoReport, keep: bool) -> None:
    from blockvault.cli.views import figures, snapshot_fields
    from blockvault.units import format_seconds, format_size

    output = call.output
    if output.as_json:
        output.document(
            {
                "message_type": "summary",
                "schema": "blockvault.demo/1",
                "good": report.good,
                "folder": report.folder if keep else None,
                "image": report.image,
                "churn": report.churn,
                "points": [
                    snapshot_fields(point, f"blockvault restore --point {point.number}") for point in report.points
                ],
                "restores": [
                    {
                        "point": restore.result.number,
                        "source": restore.result.source,
                        "seconds": restore.result.seconds,
                        "identical": restore.identical,
                    }
                    for restore in report.restores
                ],
                "build_seconds": report.build_seconds,
                "seconds": report.seconds,
            }
        )
        return
    for point in report.points:
        times = f"capture {format_seconds(point.capture_seconds)}, transfer {format_seconds(point.transfer_seconds)}"
        facts = [*figures(point.statistics), ("time", f"{format_seconds(point.seconds)}  ({times})")]
        output.facts(f"point {point.number}: {format_size(point.size_bytes)} disk", facts)
    for restore in report.restores:
        said = "every byte is the same" if restore.identical else "THE BYTES DIFFER"
        took = format_seconds(restore.result.seconds)
        output.line(f"restored point {restore.result.number} from the {restore.result.source.value} in {took}: {said}")
    output.line(
        f"all in {format_seconds(report.seconds)}, of which {format_seconds(report.build_seconds)} "
        f"made the image ({report.image.file_count} files, {report.image.kind})"
    )
    if keep:
        output.line(f"kept in {report.folder}")
    if report.good:
        output.line()
        output.line("now your own:  blockvault snapshot disk.img")
