"""The command line: one file a command under `commands/`, each parse -> one facade call -> render.

`app` names the commands and loads a leaf only when it is used; `leaf` gives each the common options; `call` is
what a leaf gets: the vault, the output, the running job. `render`, `views`, `progress` write; `failures` and
`exit_codes` turn an error into three lines and a number.
"""

from __future__ import annotations

import os


def main(arguments: list[str] | None = None) -> int:
    """Run `blockvault` with these arguments (those of the process if None); returns the exit code."""
    # numpy brings a library for matrices that starts a thread for each core; nothing here multiplies any, and starting
    # them costs each command 0.03 s.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from blockvault.cli.app import run

    return run(arguments)
