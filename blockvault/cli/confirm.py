"""Asking before what cannot be taken back: `--yes`, or a yes on a terminal, or it is not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.errors import CancelledError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def confirm(question: str, *, yes: bool, refusal: InvalidInputError | None = None) -> None:
    """Return if the user agrees.

    Args:
        question: what is to be agreed to.
        yes: `--yes` was given.
        refusal: what is raised where nobody can be asked; None: a general one.

    Raises:
        InvalidInputError: there is no `--yes` and no terminal to ask on (`input.needs-yes`).
        CancelledError: the answer was no (`job.cancelled`).
    """
    from blockvault.cli.passphrase import can_ask

    if yes:
        return
    if not can_ask():
        raise refusal or InvalidInputError(
            "input.needs-yes",
            "nothing was done: this needs to be confirmed",
            why=question,
            do="add --yes, or run it on a terminal to be asked",
        )
    if not click.confirm(question, err=True):
        raise CancelledError("job.cancelled", "nothing was done", why="the answer was no")


def confirm_by_name(question: str, names: Sequence[str], *, yes: bool) -> None:
    """Return if the user types each name; as `confirm`, for what a yes is given too easily to."""
    from blockvault.cli.passphrase import can_ask

    if yes or not can_ask():
        confirm(question, yes=yes)
        return
    click.echo(question, err=True)
    for name in names:
        if click.prompt(f"Type the name '{name}' to agree", err=True, default="", show_default=False) != name:
            raise CancelledError("job.cancelled", "nothing was done", why="that was not the name")
