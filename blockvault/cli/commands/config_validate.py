"""`blockvault config validate`: all that is wrong with the configuration, with file and line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.errors import BlockVaultError


@click.command("validate")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path())
@leaf(vault=False)
def command(call: Call, files: tuple[str, ...]) -> int | None:
    """Check configuration files.

    Without FILE those that apply here are checked, and what they come to together with the environment. Exit code 2 if
    anything is wrong.
    """
    import os

    from blockvault.config.reading import check_file, config_files
    from blockvault.errors import BlockVaultError

    named = [os.path.abspath(file) for file in files]
    present = [file.path for file in config_files() if file.needed or os.path.lexists(file.path)]
    results: dict[str, list[BlockVaultError]] = {path: check_file(path) for path in named or present}
    if not named and not any(results.values()):
        try:
            _ = call.settings
        except BlockVaultError as error:
            results["all of them together"] = [error]
    _show(call, results)
    return ExitCode.USAGE if any(results.values()) else None


def _show(call: Call, results: dict[str, list[BlockVaultError]]) -> None:
    from blockvault.cli.failures import three_lines

    if call.output.as_json:
        files = [
            {
                "file": path,
                "good": not faults,
                "faults": [{"kind": f.kind, "message": f.message, "why": f.why, "do": f.do} for f in faults],
            }
            for path, faults in results.items()
        ]
        call.output.document({"schema": "blockvault.config-validate/1", "files": files})
        return
    if not results:
        call.output.note("there is no configuration file; what is built in applies")
    for path, faults in results.items():
        if not faults and not call.output.quiet:
            call.output.line(f"{path}: good")
        for fault in faults:
            for label, text in three_lines(fault):
                call.output.message(label, text, "red" if label.startswith("error") else "bold")
