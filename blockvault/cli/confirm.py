"""Asking before what cannot be taken back: on a terminal a question, elsewhere `--yes` or an error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from blockvault.errors import CancelledError, InvalidInputError

if TYPE_CHECKING:
    from blockvault.cli.call import Call


def confirm(call: Call, question: str, *, yes: bool, refusal: InvalidInputError | None = None) -> None:
    """Return if the user agrees.

    Args:
        call: the running command.
        question: what will be done, without the question mark.
        yes: `--yes` was given.
        refusal: raised where nobody can be asked; None: a general one.

    Raises:
        InvalidInputError: nobody can be asked and `--yes` was not given (`input.needs-yes`).
        CancelledError: the answer was no.
    """
    if yes:
        return
    if call.output.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refusal or InvalidInputError(
            "input.needs-yes",
            f"not done: {question}",
            why="it overwrites or ends what is there, and there is no terminal to ask on",
            do="look with --dry-run, then add --yes",
        )
    call.output.messages.write(f"{question}? [y/N] ")
    call.output.messages.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CancelledError("job.cancelled", "nothing was done", why="the answer was no")
