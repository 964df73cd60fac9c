"""`blockvault bench`: what this machine does with BlockVault, beside what it could do at best."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.bench import BenchReport
    from blockvault.cli.call import Call


@click.command("bench")
@click.option("--quick", is_flag=True, help="A quarter of the data.")
@leaf(vault=False)
def command(call: Call, quick: bool) -> int | None:
    """Measure this machine.

    Scan, first point, churn and restore on a disk image of real files, each beside its ceiling on the same bytes.
    Needs about 4 GiB in the temporary folder, 1 GiB with --quick.
    """
    from blockvault.bench import SIZE, SIZE_QUICK, run_bench

    def tell(text: str) -> None:
        if not call.output.quiet and not call.output.as_json:
            call.output.message("*", text, "cyan")

    with tempfile.TemporaryDirectory(prefix="blockvault-bench-") as folder, call.job() as monitor:
        report = run_bench(folder, tell=tell, monitor=monitor, size=SIZE_QUICK if quick else SIZE)
    _show(call, report)
    return None


def _show(call: Call, report: BenchReport) -> None:
    from blockvault.units import format_seconds, format_size

    output = call.output
    if output.as_json:
        output.document(
            {
                "message_type": "summary",
                "schema": "blockvault.bench/1",
                "size_bytes": report.size_bytes,
                "data_bytes": report.data_bytes,
                "threads": report.threads,
                "build": report.build,
                "rows": [
                    {
                        "name": row.name,
                        "seconds": row.seconds,
                        "bytes_per_second": row.rate,
                        "ceiling": row.ceiling,
                        "ceiling_bytes_per_second": row.ceiling_rate,
                        "ratio": row.ratio,
                    }
                    for row in report.rows
                ],
                "stored_per_changed": report.stored_per_changed,
            }
        )
        return
    rows = [
        (
            row.name,
            format_seconds(row.seconds),
            f"{format_size(row.rate)}/s",
            row.ceiling,
            f"{format_size(row.ceiling_rate)}/s",
            f"{row.ratio:.2f}",
        )
        for row in report.rows
    ]
    output.table(("measured", ">time", ">rate", "ceiling", ">its rate", ">ratio"), rows)
    output.line()
    output.line(f"stored for each byte of the changed pages: {report.stored_per_changed:.2f}")
    simd = " ".join(report.build["simd"]) or "no SIMD"
    output.line(
        f"image {format_size(report.size_bytes)} with {format_size(report.data_bytes)} of real files, "
        f"{report.threads} threads, kernel {report.build['kernel']} {report.build['version']} "
        f"({report.build['profile']}, {simd})"
    )
