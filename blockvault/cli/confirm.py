"""Asking before what cannot be taken back: `--yes`, or a yes on a terminal, or it is not done."""

from __future__ import annotations

import click

from blockvault.errors import CancelledError, InvalidInputError


def confirm(question: str, *, yes: bool) -> None:
    """Return if the user agrees.

    Raises:
        InvalidInputError: there is no `--yes` and no terminal to ask on (`input.needs-yes`).
        CancelledError: the answer was no (`job.cancelled`).
    """
    from blockvault.cli.passphrase import can_ask

    if yes:
        return
    if not can_ask():
        raise InvalidInputError(
            "input.needs-yes",
            "this needs to be confirmed",
            why=question,
            do="add --yes, or run it on a terminal to be asked",
        )
    if not click.confirm(question, err=True):
        raise CancelledError("job.cancelled", "stopped on request", why="it was not confirmed")
