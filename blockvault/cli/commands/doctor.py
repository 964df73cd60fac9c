"""`blockvault doctor`: is this machine fit, and what to do where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@click.argument("item", required=False)
@leaf()
def command(call: Call, item: str | None) -> int | None:
    """Check this machine and say what to mend.

    The core, LMDB, the clock, folders and their rights, space, the vault, and the disk images of all items or of
    ITEM. Nothing is changed. Ends with 1 if something fails, with 3 if something should be looked at.
    """
    from blockvault.cli.checks import Level, all_findings

    findings = []
    for finding in all_findings(call, item):
        findings.append(finding)
        if not call.output.as_json and not (call.output.quiet and finding.level is Level.OK):
            mark = call.output.paint(f"{finding.level.value:<4}", _STYLES[finding.level], call.output.results)
            call.output.line(f"{mark}  {finding.check}: {finding.text}")
            if finding.do:
                call.output.line(f"      do: {finding.do}")
    levels = {finding.level for finding in findings}
    if call.output.as_json:
        worst = next(level for level in (Level.FAIL, Level.WARN, Level.OK) if level in levels)
        call.output.document({"schema": "blockvault.doctor/1", "level": worst, "findings": findings})
    if Level.FAIL in levels:
        return ExitCode.FAILED
    return ExitCode.WARNING if Level.WARN in levels else None
