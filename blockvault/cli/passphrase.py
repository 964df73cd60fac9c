"""Asking for a passphrase on a terminal, where nothing else gives it (`credentials.py`)."""

from __future__ import annotations

import sys

from blockvault.credentials import help_of, variable_of
from blockvault.errors import WrongKeyError
from blockvault.model import Secret


def can_ask() -> bool:
    """Whether someone sits at a terminal to be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask_secret(vault_name: str, *, new: bool, further: bool = False) -> Secret:
    """Ask on the terminal; a new passphrase twice. `further`: the vault has another one already."""
    import click

    if not can_ask():
        noun = "new passphrase" if further else "passphrase"
        raise WrongKeyError(
            "key.missing",
            f"no {noun} for the vault '{vault_name}'",
            why="none is in the environment and there is no terminal to ask on",
            do=help_of(variable_of(further)),
        )
    text: str = click.prompt(
        f"{'New passphrase' if further else 'Passphrase'} for the vault '{vault_name}'",
        hide_input=True,
        err=True,
        confirmation_prompt="The same again" if new else False,
    )
    return Secret(passphrase=text.encode("utf-8", "surrogateescape"))
