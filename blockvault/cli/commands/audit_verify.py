"""`blockvault audit verify`: is the audit log as it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("verify")
@click.option("--expect", metavar="HASH", multiple=True, help="The log must have a line of this hash: one that a "
              "notification told. Several times for several.")  # fmt: skip
@leaf(vault=False)
def command(call: Call, expect: tuple[str, ...]) -> int | None:
    """Check that no line of the audit log was changed, removed or put in.

    Lines that were cut off its end cannot be missed from the log alone: give a hash that it had earlier, from a
    notification or from this command, as --expect. Ends with 4 if something is not as it was written.
    """
    from blockvault.config import default_state_dir
    from blockvault.store.audit_log import AuditLog, find_hash

    log = AuditLog(default_state_dir())
    report = log.read()
    missing = [wanted for wanted in expect if find_hash(report, wanted) is None]
    unknown = report.open_intents()
    holds = not report.faults and not missing
    if call.output.as_json:
        call.output.document(
            {
                "schema": "blockvault.audit-verify/1",
                "lines": len(report.lines),
                "newest": report.newest,
                "holds": holds,
                "faults": report.faults,
                "torn": report.torn,
                "not_known": [line.n for line in unknown],
                "missing": missing,
            }
        )
    else:
        facts = [("lines", str(len(report.lines))), ("newest hash", report.newest)]
        facts += [("wrong", f"line {fault.line} of the file: {fault.text}") for fault in report.faults]
        facts += [("missing", f"no line has the hash {wanted}: the end was cut off") for wanted in missing]
        facts += [("torn", piece) for piece in report.torn]
        facts += [
            ("not known", f"line {line.n}: what came of {line.act} (killed in mid-way, or at work)")
            for line in unknown[:10]
        ]
        call.output.facts(f"the audit log {log.path} {'holds' if holds else 'does not hold'}", facts)
    return None if holds else ExitCode.DAMAGE
