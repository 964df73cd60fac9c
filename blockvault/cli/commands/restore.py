"""`blockvault restore`: write a point's disks to files, a device or standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import RestoreResult


@click.command("restore")
@click.option("--point", metavar="P", required=True, help="N, an id, ITEM@latest, ITEM@-1, ITEM@2026-11-20T02:00.")
@click.option("--disk", metavar="NAME", help="Only this disk of the point.")
@click.option("-o", "--output", metavar="PATH|-", help="File, folder or device; '-' is standard output.")
@click.option("--from", "source", type=click.Choice(["auto", "snapshot", "vault"]), default="auto",
              show_default=True, help="The tier to restore from.")  # fmt: skip
@click.option("--in-place", is_flag=True, help="Onto the item's own disks, writing only what differs.")
@click.option("--no-undo", is_flag=True, help="With --in-place: take no point of the disks as they are first.")
@click.option("--yes", is_flag=True, help="With --in-place: do not ask.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--no-verify", is_flag=True, help="Do not check what comes from a snapshot against the vault.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; nothing is.")
@leaf()
def command(
    call: Call,
    point: str,
    disk: str | None,
    output: str | None,
    source: str,
    force: bool,
    no_verify: bool,
    dry_run: bool,
    in_place: bool,
    no_undo: bool,
    yes: bool,
) -> int | None:
    """Write a recovery point's disks to files or a device.

    Without -o a disk is written to ./ITEM-point-N.img here, several to ./ITEM-point-N/DISK.img. Nothing is overwritten
    without --force. With --in-place the disks of the item itself become what they were: only what differs is written,
    after a point was taken of what is there now.
    """
    if in_place:
        if output is not None or source == "snapshot":
            raise click.UsageError("--in-place writes to the item's own disks, from the vault: leave out -o and --from")
        return _in_place(call, point, disk, undo=not no_undo, yes=yes, dry_run=dry_run)
    if no_undo or yes:
        raise click.UsageError("--no-undo and --yes go with --in-place")
    from blockvault.jobs.noted import Noted
    from blockvault.model.job import Operation

    stream = _standard_output(call) if output == "-" and not dry_run else None
    with call.open_vault() as vault, call.job() as monitor, Noted(vault, Operation.RESTORE, monitor) as noted:
        if not dry_run:
            noted.started(details={"point": point})
        result = vault.restore(
            point,
            disk=disk,
            output=output,
            source=source,
            force=force,
            verify=not no_verify,
            dry_run=dry_run,
            stream=stream,
            monitor=monitor,
        )
    _show(call, result)
    return None


def _in_place(call: Call, point: str, disk: str | None, *, undo: bool, yes: bool, dry_run: bool) -> int | None:
    from blockvault.cli.confirm import confirm
    from blockvault.cli.views import counted
    from blockvault.jobs.noted import Noted
    from blockvault.model.job import Operation
    from blockvault.units import format_seconds, format_size

    with call.open_vault() as vault:
        info = vault.point(point)
        if not dry_run:
            confirm(f"Overwrite the disks of item '{info.item}' with point {info.label}?", yes=yes)
        with call.job() as monitor, Noted(vault, Operation.RESTORE, monitor) as noted:
            if not dry_run:
                noted.started(details={"point": info.label, "in_place": "yes"})
            result = vault.restore_in_place(info.id, disk=disk, undo=undo, dry_run=dry_run, monitor=monitor)
    if call.output.as_json or call.output.quiet:
        _show(call, result)
        return None
    call.warn(result.warnings)
    differ = f"{counted(result.differing_chunks, 'chunk')} of {format_size(result.size_bytes)}"
    facts = [("would write to" if dry_run else "written to", path) for path in result.paths]
    facts += [("differed", differ), ("time", format_seconds(result.seconds))]
    if result.undo_number is not None:
        again = f"blockvault restore --in-place --point {result.undo_number}{call.vault_flag}"
        facts.append(("undo with", again))
    state = "dry run, nothing was written" if dry_run else f"{result.job_state}, in place"
    call.output.facts(f"point {result.label} of item '{result.item}': {state}", facts)
    return None


def _standard_output(call: Call) -> int:
    import sys

    from blockvault.errors import InvalidInputError

    if sys.stdout.isatty():
        raise InvalidInputError(
            "restore.terminal",
            "standard output is a terminal",
            why="'-o -' writes the disk's bytes there",
            do="send it to a file or a program: blockvault restore ... -o - | ...",
        )
    call.output.bytes_on_stdout()
    return sys.stdout.fileno()


def _show(call: Call, result: RestoreResult) -> None:
    from blockvault.units import format_seconds, format_size

    call.warn(result.warnings)
    if call.output.as_json:
        call.output.document(
            {
                "message_type": "summary",
                "schema": "blockvault.restore/1",
                "item": result.item,
                "point": result.number,
                "label": result.label,
                "source": result.source,
                "paths": result.paths,
                "size_bytes": result.size_bytes,
                "written_bytes": result.written_bytes,
                "verified": result.verified,
                "unchecked": result.unchecked,
                "healed_chunks": result.healed_chunks,
                "seconds": result.seconds,
                "job_state": result.job_state,
                "dry_run": result.dry_run,
                "in_place": result.in_place,
                "differing_chunks": result.differing_chunks,
                "undo_point": result.undo_number,
                "warnings": result.warnings,
            }
        )
        return
    if call.output.quiet:
        return
    paths = list(result.paths) or ["standard output"]
    facts = [("would write" if result.dry_run else "written to", path) for path in paths]
    facts += [("from", f"the {result.source.value}"), ("disk size", format_size(result.size_bytes))]
    if not result.dry_run:
        facts += [
            ("written", f"{format_size(result.written_bytes)}; the rest is holes and zeros"),
            ("checked", checked_text(result)),
            ("time", format_seconds(result.seconds)),
        ]
    state = "dry run, nothing was written" if result.dry_run else result.job_state
    call.output.facts(f"point {result.label} of item '{result.item}': {state}", facts)


def checked_text(result: RestoreResult) -> str:
    """What is known of the bytes that were written."""
    if result.healed_chunks:
        return f"every byte; {result.healed_chunks} chunks of the snapshot were wrong and came from the vault"
    if result.verified:
        return "every byte, against the point's identities"
    if result.unchecked:
        return "unchecked: the point is only in the snapshot tier, there is nothing to check it against"
    return "no (--no-verify)"
