"""`blockvault audit show`: who did what, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.store.audit_log import AuditLine


@click.command("show")
@click.option("--since", metavar="7d|DATE", help="Only what was done since then.")
@click.option("--act", metavar="ACT", help="Only this: point.delete, or a beginning of it, point.")
@leaf(vault=False)
def command(call: Call, since: str | None, act: str | None) -> int | None:
    """Show the audit log: every act that took something away or changed a policy.

    By whom, when, and what came of it: `done`, the kind of the error, or `not known`, of what was killed or runs
    just now. Ends with 4 if the log is not as it was written: see `blockvault audit verify`.
    """
    from blockvault.cli.render import moment
    from blockvault.clock import since as moment_since
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir
    from blockvault.store.audit_log import INTENT, OUTCOME, AuditLog

    begin = moment_since(since, utc_now()) if since else None
    report = AuditLog(default_state_dir()).read()
    ends = {line.of: line for line in report.lines if line.phase == OUTCOME}
    chosen = [
        (line, ends.get(line.n))
        for line in report.lines
        if line.phase == INTENT
        and (begin is None or line.at >= begin)
        and (act is None or line.act == act or line.act.startswith(f"{act}."))
    ]
    if call.output.as_json:
        acts = [_fields(line, end) for line, end in chosen]
        call.output.document({"schema": "blockvault.audit/1", "acts": acts, "faults": report.faults})
    elif chosen:
        rows = [
            (
                str(line.n),
                moment(line.at),
                _who(line),
                line.act,
                line.vault or "-",
                "; ".join(f"{name} {value}" for name, value in sorted(line.details.items())),
                end.outcome or "" if end is not None else "not known",
            )
            for line, end in chosen
        ]
        call.output.table((">line", "when", "who", "act", "vault", "what", "outcome"), rows)
    else:
        call.output.note("nothing of that was done" if since or act else "nothing was done yet that is noted")
    if report.faults:
        call.warn((f"the log is not as it was written: {len(report.faults)} faults; see `blockvault audit verify`",))
        return ExitCode.DAMAGE
    return None


def _who(line: AuditLine) -> str:
    name = line.who.login or str(line.who.uid)
    return f"{name} (sudo: {line.who.sudo_user})" if line.who.sudo_user else name


def _fields(line: AuditLine, end: AuditLine | None) -> dict[str, Any]:
    return {
        "line": line.n,
        "at": line.at,
        "act": line.act,
        "vault": line.vault or None,
        "vault_id": line.vault_id or None,
        "details": line.details,
        "who": line.who,
        "outcome": end.outcome if end is not None else None,
        "ended": end.at if end is not None else None,
        "found": end.details if end is not None else {},
        "hash": line.hash,
    }
