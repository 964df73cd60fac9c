"""`blockvault daemon`: schedules, workers and upkeep, until it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("daemon")
@click.option("--once", is_flag=True, help="Do all that is due, wait until it is done, and end: for a timer.")
@leaf(vault=False)
def command(call: Call, once: bool) -> int | None:
    """Take the scheduled points, by itself, until it is stopped.

    It works on all vaults of this host: takes the points that policies ask for, moves them into the vault, expires
    old ones, frees space and verifies a part of each vault every day. `service install` has systemd run it.
    """
    from blockvault.config import default_state_dir
    from blockvault.daemon import run
    from blockvault.daemon.loop import LoopSettings

    def say(text: str) -> None:
        if not call.output.quiet:
            call.output.message("", text)

    work = run.once if once else run.serve
    return work(default_state_dir(), LoopSettings(), say)
