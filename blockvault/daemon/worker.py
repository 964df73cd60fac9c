"""The program of a worker: `python -m blockvault.daemon.worker STATE_DIR JOB PHASE`.

It carries out one phase of one job and ends; what came of it stands in the journal. SIGTERM lets it stop at the next
batch, and the phase waits again.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from blockvault.clock import utc_now
from blockvault.config import load_settings
from blockvault.credentials import secret_from_environment
from blockvault.daemon.log import DaemonLog, Level, LogForm
from blockvault.daemon.workers import IoPriority, die_with_parent, set_io_priority
from blockvault.errors import BlockVaultError
from blockvault.jobs.watch import JobMonitor, Rate
from blockvault.jobs.work import Worker, WorkSettings
from blockvault.model.job import Job, PhaseName
from blockvault.store.journal import Journal
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from blockvault.config.settings import DaemonSettings
    from blockvault.ids import ItemId


def main(arguments: list[str]) -> int:
    """Carry out a phase; 0 if it was begun, whatever came of it."""
    state_dir, job_id, phase = arguments
    die_with_parent()
    configured = load_settings().daemon
    set_io_priority(IoPriority(configured.io_priority))
    os.umask(0o077)
    settings = WorkSettings(
        verify_budget=timedelta(seconds=configured.verify_budget),
        rate=Rate(lambda now: _share(configured, now), utc_now) if configured.bandwidth else None,
        retry_first=timedelta(seconds=configured.retry_first),
        retry_limit=timedelta(seconds=configured.retry_limit),
        held=_held,
    )

    def open_vault(job: Job) -> Vault:
        return Vault.open(job.vault, state_dir=state_dir, secret=secret_from_environment(None, job.vault))

    monitor = JobMonitor(utc_now, settings.rate)
    signal.signal(signal.SIGTERM, lambda number, _frame: monitor.cancel(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Journal(state_dir) as journal:
        try:
            Worker(journal, state_dir, open_vault, utc_now, settings).run(job_id, PhaseName(phase), monitor)
        except BlockVaultError as error:
            log = DaemonLog(LogForm(configured.log_format))
            log.event("worker.failed", f"job {job_id}: {error.message}", Level.ERROR, job=job_id)
            return 1
    return 0


def _held(vault: Vault, now: datetime) -> Mapping[ItemId, str]:
    """Items whose newest points look as if their files were being encrypted: nothing of them expires."""
    from blockvault.reports.alerts import held_by_alerts
    from blockvault.reports.notify import load_channels

    return held_by_alerts(vault, now, load_channels(vault.state_dir))


def _share(configured: DaemonSettings, now: datetime) -> int | None:
    """What one of the transfers that may run at the same time may send, so that all together keep to the limit."""
    limit = configured.bandwidth_limit(now)
    return max(1, limit // configured.transfers) if limit else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
