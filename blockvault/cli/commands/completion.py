"""`blockvault completion`: the completion script of a shell, made by click."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call

_WHERE = {
    "bash": 'eval "$(blockvault completion bash)"    in ~/.bashrc',
    "zsh": 'eval "$(blockvault completion zsh)"    in ~/.zshrc',
    "fish": "blockvault completion fish | source    in ~/.config/fish/config.fish",
}


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(list(_WHERE)))
@leaf(vault=False)
def command(call: Call, shell: str) -> int | None:
    """Print the completion script of a shell.

    SHELL is bash, zsh or fish. Put the line that is printed on standard error into the shell's start file.
    """
    from click.shell_completion import get_completion_class

    from blockvault.cli.app import PROGRAM, make_app

    maker = get_completion_class(shell)
    assert maker is not None  # the argument's type allows no other shell
    source = maker(make_app(), {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source()
    if call.output.as_json:
        call.output.document({"schema": "blockvault.completion/1", "shell": shell, "source": source})
        return None
    call.output.line(source)
    if call.output.messages.isatty():
        call.output.note(f"to have it always: {_WHERE[shell]}")
    return None
