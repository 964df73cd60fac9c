"""`blockvault daemon`: schedules, workers and upkeep, until it is stopped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("daemon")
@click.option("--once", is_flag=True, help="Do all that is due, wait until it is done, and end: for a timer.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How it says what it does, a line each; else `daemon.log_format`.",
)
@leaf(vault=False)
def command(call: Call, once: bool, log_format: str | None) -> int | None:
    """Take the scheduled points, by itself, until it is stopped.

    It works on all vaults of this host: takes the points that policies ask for, moves them into the vault, expires
    old ones, frees space and verifies a part of each vault every day. `service install` has systemd run it.
    """
    from datetime import timedelta

    from blockvault.config import load_settings
    from blockvault.daemon import run
    from blockvault.daemon.log import DaemonLog, LogForm
    from blockvault.daemon.loop import LoopSettings
    from blockvault.daemon.service import TIMER_MINUTES
    from blockvault.engine.policies import machine_zone
    from blockvault.jobs.planning import Budgets
    from blockvault.reports.alerts import HEARTBEAT_FOR
    from blockvault.reports.metrics_file import MetricsFile
    from blockvault.reports.telling import Telling

    settings = load_settings()
    configured, state_dir = settings.daemon, settings.general.state_dir
    loop = LoopSettings(
        budgets=Budgets(configured.captures, configured.transfers),
        zone=machine_zone(),
        upkeep_hour=configured.reclaim_hour,
        verify=configured.verify_budget > 0,
        history_days=configured.history_days,
    )
    if log_format is not None:
        os.environ["BLOCKVAULT_DAEMON_LOG_FORMAT"] = log_format  # its workers write into the same log
    log = DaemonLog(LogForm(log_format or configured.log_format), quiet=call.output.quiet)
    # A timer looks every few minutes: it is silent when three of its looks are missing.
    silent_for = timedelta(minutes=3 * TIMER_MINUTES) if once else HEARTBEAT_FOR
    telling = Telling(
        state_dir,
        run.opener(state_dir),
        settings.alerts,
        lambda text: log.event("telling", text),
        once=once,
        silent_for=silent_for,
    )
    looks: list[run.Look] = [telling]
    if configured.metrics_textfile:
        looks.append(MetricsFile(configured.metrics_textfile, state_dir))
    work = run.once if once else run.serve
    return work(state_dir, loop, log, looks)
