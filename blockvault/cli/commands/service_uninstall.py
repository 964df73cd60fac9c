"""`blockvault service uninstall`: the units of systemd are removed; backups, vaults and jobs stay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("uninstall")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@leaf(vault=False)
def command(call: Call, dry_run: bool, yes: bool) -> int | None:
    """Remove the units.

    Scheduled points are then not taken any more. Vaults, points and jobs stay as they are.
    """
    from blockvault.cli.confirm import confirm
    from blockvault.config import default_state_dir
    from blockvault.daemon.service import installed, uninstall
    from blockvault.reports.alerts import forget_heartbeat
    from blockvault.store.audit_log import AuditLog

    system = os.geteuid() == 0
    there = installed(system=system)
    if there and not dry_run:
        confirm("Remove the units? Scheduled points are then not taken any more.", yes=yes)
        with AuditLog(default_state_dir()).acting("service.uninstall", {"files": there}):
            uninstall(system=system)
            forget_heartbeat(default_state_dir())
    if call.output.as_json:
        call.output.document({"schema": "blockvault.service/1", "removed": there, "dry_run": dry_run})
        return None
    if not there:
        call.output.note("no units are installed")
    for path in there:
        call.output.line(f"{'would remove' if dry_run else 'removed'} {path}")
    return None
