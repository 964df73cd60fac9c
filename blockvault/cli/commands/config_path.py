"""`blockvault config path`: which files are read, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("path")
@leaf(vault=False)
def command(call: Call) -> int | None:
    """Show which configuration files are read.

    In the order in which they are: a later one wins. A file that is not there is not missed, unless --config or
    $BLOCKVAULT_CONFIG names it.
    """
    import os

    from blockvault.config.reading import SYSTEM_DIR, config_files

    files = [(file, os.path.lexists(file.path)) for file in config_files()]
    if call.output.as_json:
        rows = [{"file": file.path, "kind": file.kind, "present": present} for file, present in files]
        call.output.document({"schema": "blockvault.config-path/1", "files": rows})
        return None
    told = {"system": "of the system", "user": "of this user", "named": "named by --config or $BLOCKVAULT_CONFIG"}
    call.output.table(
        ("file", "state", "whose"),
        [(file.path, "read" if present else "not there", told[file.kind]) for file, present in files],
    )
    folder = os.path.join(os.environ.get("BLOCKVAULT_CONFIG_DIR") or SYSTEM_DIR, "conf.d")
    call.output.note(f"files in {folder} that end in .toml are read after the first, in order of their names")
    return None
