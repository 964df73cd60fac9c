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
    from blockvault.config import load_settings
    from blockvault.daemon import run
    from blockvault.daemon.loop import LoopSettings
    from blockvault.engine.policies import machine_zone
    from blockvault.jobs.planning import Budgets

    def say(text: str) -> None:
        if not call.output.quiet:
            call.output.message("", text)

    work = run.once if once else run.serve
    settings = load_settings()
    configured = settings.daemon
    loop = LoopSettings(
        budgets=Budgets(configured.captures, configured.transfers),
        zone=machine_zone(),
        upkeep_hour=configured.reclaim_hour,
        verify=configured.verify_budget > 0,
        history_days=configured.history_days,
    )
    return work(settings.general.state_dir, loop, say)
