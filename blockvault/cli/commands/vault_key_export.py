"""`blockvault vault key export`: the master key on paper, for the day when passphrases and slots are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("export")
@click.option("-o", "--output", metavar="FILE", help="Write it there, for its owner alone; never over another file.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@leaf()
def command(call: Call, output: str | None, yes: bool) -> int | None:
    """Print the paper key, which opens the vault when all else is lost.

    It is the master key, readable: four lines to be printed or copied by hand and locked away. It opens the vault
    for good, whatever passphrases are changed. Each line has a check, so that a mistake in typing is found.
    """
    from blockvault.cli.confirm import confirm
    from blockvault.clock import utc_now

    output = None if output == "-" else output
    with call.open_vault() as vault:
        sheet, lines = vault.keys.export(now=utc_now()), vault.keys.export_lines()
        confirm(f"Show the key that opens all of the vault '{vault.name}', readable?", yes=yes)
        if output is not None:
            write_private(output, sheet)
        if call.output.as_json:
            told = {"path": output} if output is not None else {"lines": lines}
            call.output.document({"schema": "blockvault.paper-key/1", "vault": vault.name, "id": vault.id, **told})
        elif output is None:
            call.output.line(sheet.rstrip("\n"))
        else:
            call.output.facts(f"the paper key of the vault '{vault.name}' is written", [("to", output)])
    return None


def write_private(path: str, text: str) -> None:
    """Make a file that only its owner can read. Raises `AlreadyExistsError` (`target.exists`)."""
    import os

    from blockvault.errors import AlreadyExistsError

    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExistsError(
            "target.exists",
            f"there is already something at {path}",
            why="a paper key is never written over another file: that might be the key of another vault",
            do="choose another name",
        ) from None
    try:
        with open(fd, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
