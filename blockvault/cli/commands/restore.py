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
) -> int | None:
    """Write a recovery point's disks to files or a device.

    Without -o a disk is written to ./ITEM-point-N.img here, several to ./ITEM-point-N/DISK.img. Nothing is overwritten
    without --force.
    """
    stream = _standard_output(call) if output == "-" and not dry_run else None
    with call.open_vault() as vault, call.job() as monitor:
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
