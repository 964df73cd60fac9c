"""What makes a function a command: the options that every command has, and the `Call` that it gets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


_DEFAULT = "$BLOCKVAULT_VAULT, else as configured, else 'default'"


def leaf(*, vault: bool = True, otherwise: str = "") -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Give a command the common options.

    Args:
        vault: False hides those of the vault, where none is opened.
        otherwise: what is meant where `--vault` is not given, if that is not the default vault.
    """

    def decorate(function: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(function)
        def run(
            *,
            as_json: bool,
            vault_option: str | None,
            key_file: str | None,
            quiet: bool,
            verbose: bool,
            color: str | None,
            config_file: str | None,
            **arguments: Any,
        ) -> int:
            from blockvault.cli.call import Call, configured_by
            from blockvault.cli.render import Output

            with configured_by(config_file):
                output = Output(as_json=as_json, quiet=quiet, verbose=verbose)
                call = Call(output, vault_option=vault_option, key_file=key_file, color=color)
                return call.run(lambda: function(call, **arguments))

        for option in reversed(_common(vault, otherwise)):
            run = option(run)
        return run

    return decorate


def _common(vault: bool, otherwise: str) -> list[Callable[..., Any]]:
    return [
        click.option(
            "--vault",
            "vault_option",
            metavar="NAME|FOLDER",
            hidden=not vault,
            help=f"The vault; else {otherwise or _DEFAULT}.",
        ),
        click.option(
            "--key-file", metavar="FILE", hidden=not vault, help="Open an encrypted vault with this key file."
        ),
        click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs."),
        click.option("-q", "--quiet", is_flag=True, help="Only results, warnings and errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more."),
        click.option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            help="Colours; $NO_COLOR turns them off too.",
        ),
        click.option("--config", "config_file", metavar="FILE", help="A configuration file to read after all others."),
    ]


def parse_pairs(words: tuple[str, ...], noun: str) -> dict[str, str]:
    """`("a=1", "b=2")` -> `{"a": "1", "b": "2"}`, or a usage error that names the word."""
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise click.UsageError(f"'{word}' is no {noun}: write NAME=VALUE")
        pairs[key] = value
    return pairs
