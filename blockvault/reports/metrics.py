"""Metrics as Prometheus reads them, from the journal's totals and the figures of vaults.

    text = exposition(figures, totals, successes, open_jobs, alerts, now)
    write_textfile(path, text)        for node_exporter's textfile collector: whole, or the old one

Names, labels and units are an interface: they are listed in `docs/telling.md` and only ever added to. Everything that
a job adds to is a counter out of totals that trimming the history does not touch; a counter begins again at 0 only
where the journal itself is begun anew, as Prometheus expects of counters.

Invariants:
- The text is valid whatever items and vaults are called: labels are escaped, what is no UTF-8 is written out.
- No time series appears twice.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.model.job import JobState, Operation, PhaseState
from blockvault.model.totals import DURATION_BOUNDS, VaultTotals
from blockvault.store.local import device_error, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from blockvault.model.job import Job
    from blockvault.model.totals import ItemSuccess
    from blockvault.reports.figures import Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SEVERITIES = ("info", "warning", "critical")
_ENDED = tuple(state for state in JobState if state is not JobState.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Source:
    """What metrics are made of. `alerts` counts the open ones by severity; None: they are not known here."""

    figures: Figures
    totals: Mapping[str, VaultTotals]
    successes: Sequence[ItemSuccess]
    open_jobs: Sequence[Job]
    alerts: Mapping[str, int] | None = None


class _Page:
    """The text in the making: a family is its head and its samples."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help_text: str) -> None:
        self._lines.append(f"# HELP {name} {help_text}")
        self._lines.append(f"# TYPE {name} {kind}")

    def sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        text = ",".join(f'{label}="{_escaped(held)}"' for label, held in labels.items())
        self._lines.append(f"{name}{{{text}}} {_number(value)}" if text else f"{name} {_number(value)}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def exposition(source: Source, now: datetime, version: str) -> str:
    """The text. `version` is that of the program."""
    page = _Page()
    page.family("blockvault_build_info", "gauge", "The program's version.")
    page.sample("blockvault_build_info", {"version": version}, 1)
    page.family("blockvault_metrics_timestamp_seconds", "gauge", "When these metrics were made.")
    page.sample("blockvault_metrics_timestamp_seconds", {}, now.timestamp())
    _items(page, source)
    _jobs(page, source)
    _vaults(page, source)
    if source.alerts is not None:
        page.family("blockvault_alerts_open", "gauge", "Alerts that are open.")
        for severity in SEVERITIES:
            page.sample("blockvault_alerts_open", {"severity": severity}, source.alerts.get(severity, 0))
    return page.text()


def _items(page: _Page, source: Source) -> None:
    items = [(vault, item) for vault in source.figures.vaults for item in vault.items]
    newer = {(each.vault_id, each.item_id): each.taken for each in source.successes}
    page.family(
        "blockvault_item_last_success_timestamp_seconds",
        "gauge",
        "When the item's newest point in the vault was taken.",
    )
    for vault, item in items:
        known = [at for at in (item.newest, newer.get((vault.vault_id, item.item_id))) if at is not None]
        if known:
            labels = {"vault": vault.vault, "item": item.item}
            page.sample("blockvault_item_last_success_timestamp_seconds", labels, max(known).timestamp())
    page.family("blockvault_item_rpo_seconds", "gauge", "How old the item's newest point in the vault may be.")
    for vault, item in items:
        if item.rpo_seconds is not None:
            labels = {"vault": vault.vault, "item": item.item}
            page.sample("blockvault_item_rpo_seconds", labels, item.rpo_seconds)
    page.family("blockvault_item_recovery_points", "gauge", "Points of the item that restore from a tier.")
    for vault, item in items:
        for tier, count in (("snapshot", item.snapshots), ("vault", item.vault_points)):
            labels = {"vault": vault.vault, "item": item.item, "tier": tier}
            page.sample("blockvault_item_recovery_points", labels, count)
    page.family("blockvault_item_disk_bytes", "gauge", "Size of the item's disks at its newest point.")
    for vault, item in items:
        page.sample("blockvault_item_disk_bytes", {"vault": vault.vault, "item": item.item}, item.disk_bytes)


def _jobs(page: _Page, source: Source) -> None:
    totals = by_name(source)
    page.family("blockvault_jobs_total", "counter", "Jobs that ended, by what became of them.")
    for vault, total in totals.items():
        for operation in Operation:
            if not any(f"{operation} {state}" in total.jobs for state in _ENDED):
                continue
            for state in _ENDED:  # those of 0 too: an alert on a rise needs where it rose from
                labels = {"vault": vault, "operation": operation.value, "status": state.value}
                page.sample("blockvault_jobs_total", labels, total.jobs.get(f"{operation} {state}", 0))
    name = "blockvault_job_phase_duration_seconds"
    page.family(name, "histogram", "How long completed phases of jobs took.")
    for vault, total in totals.items():
        for key in sorted(total.phases):
            operation_name, phase_of = key.split(" ")
            labels = {"vault": vault, "operation": operation_name, "phase": phase_of}
            held, count = total.phases[key], 0
            for bound, here in zip([*map(_number, DURATION_BOUNDS), "+Inf"], held.counts, strict=True):
                count += here
                page.sample(f"{name}_bucket", {**labels, "le": bound}, count)
            page.sample(f"{name}_sum", labels, held.seconds)
            page.sample(f"{name}_count", labels, count)
    for figure, help_text in (
        ("read", "Bytes that were read of disk images."),
        ("changed", "Bytes that had changed against the parent point."),
        ("stored", "Bytes that were added to the vault."),
        ("sent", "Bytes that were sent to the vault's store."),
    ):
        page.family(f"blockvault_{figure}_bytes_total", "counter", help_text)
        for vault, total in totals.items():
            page.sample(f"blockvault_{figure}_bytes_total", {"vault": vault}, getattr(total, f"{figure}_bytes"))
    page.family("blockvault_verify_errors_total", "counter", "Verifies that found damage.")
    for vault, total in totals.items():
        page.sample("blockvault_verify_errors_total", {"vault": vault}, total.verify_errors)
    phases = Counter(
        (phase.name.value, "running" if phase.state is PhaseState.IN_PROGRESS else "waiting")
        for job in source.open_jobs
        if (phase := job.current) is not None
    )
    page.family("blockvault_jobs_open", "gauge", "Jobs that run or wait, by the phase that they are in.")
    for (phase_name, state_name), count in sorted(phases.items()):
        page.sample("blockvault_jobs_open", {"phase": phase_name, "state": state_name}, count)


def by_name(source: Source) -> dict[str, VaultTotals]:
    """Totals by the vault's name; where two vaults had one name, one after the other, they are taken together."""
    names = {each.vault_id: each.vault for each in source.figures.vaults}
    found: dict[str, list[VaultTotals]] = defaultdict(list)
    for vault_id, totals in source.totals.items():
        found[names.get(vault_id, totals.vault)].append(totals)
    return {name: _together(found[name]) for name in sorted(found)}


def _together(parts: Iterable[VaultTotals]) -> VaultTotals:
    made = VaultTotals()
    for part in parts:
        made = made.plus(part)
    return made


def _vaults(page: _Page, source: Source) -> None:
    vaults = source.figures.vaults
    read = [vault for vault in vaults if vault.stored_bytes or not vault.problem]
    for figure, help_text in (
        ("stored", "Bytes of the vault's files."),
        ("logical", "Sizes of the disks of all its points together."),
        ("free", "Bytes that the vault's disk has left."),
    ):
        page.family(f"blockvault_vault_{figure}_bytes", "gauge", help_text)
        for vault in read:
            page.sample(f"blockvault_vault_{figure}_bytes", {"vault": vault.vault}, getattr(vault, f"{figure}_bytes"))
    page.family("blockvault_vault_up", "gauge", "Whether the vault could be read at the last look.")
    for vault in vaults:
        page.sample("blockvault_vault_up", {"vault": vault.vault}, 0 if vault.problem else 1)
    page.family("blockvault_vault_last_look_timestamp_seconds", "gauge", "When the vault was looked at last.")
    for vault in vaults:
        page.sample("blockvault_vault_last_look_timestamp_seconds", {"vault": vault.vault}, vault.at.timestamp())
    page.family(
        "blockvault_vault_last_verify_timestamp_seconds", "gauge", "When stored bytes were verified last, some or all."
    )
    verified = {vault_id: total.last_verify for vault_id, total in source.totals.items()}
    for vault in vaults:
        known = [at for at in (vault.newest_verified, verified.get(vault.vault_id)) if at is not None]
        if known:
            labels = {"vault": vault.vault}
            page.sample("blockvault_vault_last_verify_timestamp_seconds", labels, max(known).timestamp())


def write_textfile(path: str, text: str) -> None:
    """Replace the file; node_exporter, another user, may read it. Raises `DeviceError`."""
    path = os.path.abspath(path)
    made = f"{path}.{os.getpid()}.tmp"  # the collector looks at `*.prom` alone
    try:
        fd = os.open(made, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(fd, 0o644)  # whatever the umask is
            write_all(fd, text.encode())
        finally:
            os.close(fd)
        os.rename(made, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise device_error(error, f"writing metrics to {path}", kind="metrics.not-written") from error


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
