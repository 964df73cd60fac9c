"""Metrics: read by Prometheus' own parser; counters that never go down; vaults that are seldom opened."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.report_world import HOSTILE, NOW, VAULT_ID, backup, restored
from helpers.simulated import AtWork, SimulatedHost
from prometheus_client.parser import text_string_to_metric_families

from blockvault.clock import utc_now
from blockvault.errors import DeviceError
from blockvault.model.job import Job, PhaseName
from blockvault.model.totals import ItemSuccess, VaultTotals, add
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.reports import figures as figures_module
from blockvault.reports.facts import VaultFacts, gather
from blockvault.reports.figures import Figures, ItemFigures, VaultFigures, look, read_figures, sampled
from blockvault.reports.metrics import Source, exposition, write_textfile
from blockvault.reports.metrics_file import LATEST, SOON, MetricsFile
from blockvault.store import journal as journal_module
from blockvault.store.journal import Journal
from blockvault.vault import Vault

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
COUNTER_ENDS = ("_total", "_bucket", "_sum", "_count")


def parsed(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type != "unknown", family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def totals(*jobs: Job) -> VaultTotals:
    made = VaultTotals()
    for job in jobs:
        made = add(made, job)
    return made


def source(item: str = "web01", vault: str = "site") -> Source:
    held = ItemFigures("i", item, NOW - timedelta(days=1), 172800.0, 7, 2, 10 << 30)
    figures = Figures((VaultFigures(vault, VAULT_ID, NOW, 60 << 30, 1 << 40, 200 << 30, None, (held,)),))
    jobs = [backup("a", NOW), backup("a", NOW, ends="failed"), backup("a", NOW, ends="warned"), restored("a", NOW)]
    return Source(
        figures, {VAULT_ID: replace(totals(*jobs), vault=vault)}, [], [backup("b", NOW, ends="open")], {"critical": 2}
    )


def test_what_prometheus_reads() -> None:
    found = parsed(exposition(source(), NOW, "1.2.3"))
    assert of(found, "blockvault_item_rpo_seconds", vault="site", item="web01") == 172800
    assert of(found, "blockvault_item_recovery_points", vault="site", item="web01", tier="snapshot") == 2
    assert of(found, "blockvault_item_recovery_points", vault="site", item="web01", tier="vault") == 7
    assert of(found, "blockvault_jobs_total", vault="site", operation="backup", status="failed") == 1
    assert of(found, "blockvault_jobs_total", vault="site", operation="backup", status="cancelled") == 0
    assert of(found, "blockvault_jobs_total", vault="site", operation="restore", status="completed") == 1
    assert of(found, "blockvault_read_bytes_total", vault="site") == 2 * (10 << 30)
    assert of(found, "blockvault_vault_free_bytes", vault="site") == 200 << 30
    assert of(found, "blockvault_alerts_open", severity="critical") == 2
    assert of(found, "blockvault_alerts_open", severity="info") == 0
    assert of(found, "blockvault_jobs_open", phase="capture", state="running") == 1
    name, labels = (
        "blockvault_job_phase_duration_seconds",
        {"vault": "site", "operation": "backup", "phase": "transfer"},
    )
    assert of(found, f"{name}_count", **labels) == 2
    assert of(found, f"{name}_sum", **labels) == 120
    assert of(found, f"{name}_bucket", **labels, le="10") == 0
    assert of(found, f"{name}_bucket", **labels, le="60") == 2
    assert of(found, f"{name}_bucket", **labels, le="+Inf") == 2


def test_the_newest_success_is_that_of_vault_or_journal_whichever_is_newer() -> None:
    known = source()
    newer = ItemSuccess("site", VAULT_ID, "i", "web01", NOW)
    day = timedelta(days=1)
    older = replace(newer, taken=NOW - 9 * day)
    for successes, at in (([], NOW - day), ([newer], NOW), ([older], NOW - day)):
        found = parsed(exposition(replace(known, successes=successes), NOW, "1"))
        told = of(found, "blockvault_item_last_success_timestamp_seconds", vault="site", item="web01")
        assert told == at.timestamp()


def test_labels_are_escaped_whatever_items_are_called() -> None:
    text = exposition(source(HOSTILE + '\n"} 1\nfake_total 5', 'a"b\\c'), NOW, "1")
    found = parsed(text)
    assert not any(name == "fake_total" for name, _ in found)
    (name,) = {dict(labels)["item"] for name, labels in found if name == "blockvault_item_rpo_seconds"}
    assert name == HOSTILE.replace("\udcff", "\\udcff") + '\n"} 1\nfake_total 5'
    assert {dict(labels).get("vault") for _, labels in found} == {'a"b\\c', None}
    text.encode()


def test_two_vaults_of_one_name_are_one_series() -> None:
    known = source()
    other = {VAULT_ID: totals(backup("a", NOW)), "8" * 32: replace(totals(backup("a", NOW)), vault="site")}
    found = parsed(exposition(replace(known, totals=other), NOW, "1"))
    assert of(found, "blockvault_jobs_total", vault="site", operation="backup", status="completed") == 2


def test_alerts_that_are_not_known_are_not_told_as_none() -> None:
    assert "blockvault_alerts_open" not in exposition(replace(source(), alerts=None), NOW, "1")


def test_the_textfile_is_whole_and_may_be_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "blockvault.prom"
    before = os.umask(0o077)
    try:
        write_textfile(str(path), "a 1\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def full(_fd: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blockvault.reports.metrics.write_all", full)
    with pytest.raises(DeviceError) as caught:
        write_textfile(str(path), "a 2\n")
    assert caught.value.kind == "store.no-space"
    assert path.read_text() == "a 1\n"
    assert [each.name for each in tmp_path.iterdir()] == ["blockvault.prom"]


# --- totals --------------------------------------------------------------------------------------------------------


def test_totals_outlive_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "TRIM_NEWER_LEAST", 0)
    with Journal(str(tmp_path)) as journal:
        for day in range(5):
            done = backup("a", NOW + timedelta(days=day), ends="failed" if day == 3 else "completed")
            made = journal.add(replace(done, phases=backup("a", NOW, ends="open").phases, ended=None))
            assert made is not None
            journal.change(made.id, lambda job, _, done=done: replace(done, id=job.id))
        before = journal.totals()
        assert before[VAULT_ID].jobs == {"backup completed": 4, "backup failed": 1}
        assert journal.trim(NOW + timedelta(days=99)) == 5
        assert journal.newest() == []
        assert journal.totals() == before
        assert [each.taken for each in journal.successes()] == [backup("a", NOW + timedelta(days=4)).phases[0].started]


def test_what_has_ended_counts_once(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        made = journal.add(backup("a", NOW))
        assert made is not None
        journal.change(made.id, lambda job, _: replace(job, comment="changed"))
        assert journal.totals()[VAULT_ID].jobs == {"backup completed": 1}


def test_a_journal_of_before_there_were_totals_is_counted_once(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        for name in ("a", "b"):
            journal.add(backup(name, NOW))
        for table in (journal._totals, journal._successes):
            journal._environment.run(lambda txn, table=table: txn.drop(table, delete=False), write=True)
    for _ in range(2):
        with Journal(str(tmp_path)) as journal:
            assert journal.totals()[VAULT_ID].jobs == {"backup completed": 2}
            assert len(journal.successes()) == 2


# --- over a month --------------------------------------------------------------------------------------------------


class FailingHost(SimulatedHost):
    """On some days of the month the images are gone when they are captured."""

    failing = frozenset({5, 6, 17})

    def _write_churn(self, job: Job) -> None:
        for path in self.images[job.item]:
            if (away := path.with_suffix(".away")).exists():
                away.rename(path)
        super()._write_churn(job)

    def _carry_out(self, work: AtWork) -> None:
        if self.now.day in self.failing and work.name is PhaseName.CAPTURE:
            for path in self.images[work.job.item]:
                path.rename(path.with_suffix(".away"))
        super()._carry_out(work)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FailingHost]:
    made = FailingHost(tmp_path, datetime(2026, 11, 28, tzinfo=UTC))
    yield made
    made.close()


def test_counters_only_rise_over_a_month_with_failures_crashes_and_trimming(
    host: FailingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "TRIM_NEWER_LEAST", 0)
    host.add("web")
    host.protect(Policy("daily", Schedule.daily("02:00", zone="UTC"), RetentionRules(keep_daily=5)), "web")
    before: Samples = {}
    rises = 0
    for day in range(1, 31):
        host.run_until(datetime(2026, 11, 28, 23, tzinfo=UTC) + timedelta(days=day))
        if day % 7 == 0:
            host.journal.trim(host.now - timedelta(days=3))
        if day % 10 == 0:
            host.kill()
            host.boot()
        figures = look(str(host.state), host.opened, host.now, 2.0)
        known = Source(figures, host.journal.totals(), host.journal.successes(), host.journal.open_jobs())
        now = parsed(exposition(known, host.now, "1"))
        for key, value in before.items():
            if key[0].endswith(COUNTER_ENDS):
                assert now[key] >= value, f"{key} went down on day {day}"
                rises += now[key] > value
        before = now
    assert rises > 100
    labels = {"vault": "default", "operation": "backup"}
    ended = {state: of(before, "blockvault_jobs_total", **labels, status=state) for state in ("completed", "failed")}
    assert ended["completed"] + ended["failed"] == 31  # 28 November to 28 December
    assert ended["failed"] == len(host.failing)
    assert len(host.journal.newest()) < 40
    newest = max(captured.taken for captured in host.captured)
    told = of(before, "blockvault_item_last_success_timestamp_seconds", vault="default", item="web")
    assert told == pytest.approx(newest.timestamp(), abs=2)
    assert of(before, "blockvault_item_recovery_points", vault="default", item="web", tier="vault") == 5


# --- figures -------------------------------------------------------------------------------------------------------


class Opener:
    """Opens vaults and counts."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.opened = 0

    def __call__(self, name: str) -> AbstractContextManager[Vault]:
        self.opened += 1
        return Vault.open(name, state_dir=self.state)


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    state = str(tmp_path / "state")
    Vault.create(state_dir=state).close()
    return Opener(state)


def test_a_vault_is_opened_once_an_hour_at_most(opener: Opener) -> None:
    now = utc_now()
    for minute in range(0, 180, 5):
        look(opener.state, opener, now + timedelta(minutes=minute), 2.0)
    assert opener.opened == 3
    look(opener.state, opener, now - timedelta(days=1), 2.0)
    assert opener.opened == 4, "a clock that was set back makes all of it old"


def test_one_sample_a_day_is_kept(opener: Opener) -> None:
    now = datetime(2026, 12, 1, tzinfo=UTC)
    for hour in range(0, 72, 2):
        look(opener.state, opener, now + timedelta(hours=hour), 2.0)
    samples = read_figures(opener.state).samples
    (kept,) = samples.values()
    assert [each.at.day for each in kept] == [1, 2, 3]
    facts = gather(opener.state, opener, now)
    assert sampled(opener.state, facts, now + timedelta(hours=71)) == samples
    assert len(next(iter(sampled(opener.state, facts, now + timedelta(days=9)).values()))) == 4


def test_a_vault_that_is_away_keeps_its_figures_and_is_told_as_down(opener: Opener) -> None:
    now = utc_now()
    first = look(opener.state, opener, now, 2.0).vaults[0]

    @contextmanager
    def away(_name: str) -> Iterator[Vault]:
        raise OSError(5, "Input/output error")
        yield

    opening: Callable[[str], AbstractContextManager[Vault]] = away
    figures = look(opener.state, opening, now + timedelta(hours=2), 2.0)
    assert figures.vaults[0].stored_bytes == first.stored_bytes > 0
    found = parsed(exposition(Source(figures, {}, [], []), now, "1"))
    assert of(found, "blockvault_vault_up", vault="default") == 0


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"vaults": 3}', b"[]"])
def test_figures_that_are_damaged_are_found_again(opener: Opener, data: bytes) -> None:
    Path(opener.state, figures_module.FILE).write_bytes(data)
    assert read_figures(opener.state) == Figures()
    assert look(opener.state, opener, utc_now(), 2.0).vaults[0].vault == "default"


def test_facts_of_a_damaged_vault_say_so(opener: Opener) -> None:
    Path(opener.state, "vaults", "default", "vault.json").write_bytes(b"nonsense")
    (facts,) = gather(opener.state, opener, utc_now())
    assert isinstance(facts, VaultFacts)
    assert facts.problem
    assert facts.items == ()


# --- the daemon's file ---------------------------------------------------------------------------------------------


def test_a_process_is_begun_for_news_and_otherwise_seldom(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import sys; open(sys.argv[-1], 'a').write('x')")
    path = tmp_path / "m"
    with Journal(str(tmp_path)) as journal:
        kept = MetricsFile(str(path), str(tmp_path), program)
        now = NOW

        def after(span: timedelta) -> int:
            nonlocal now
            now += span
            if kept._process is not None:
                kept._process.wait(30)
            kept.look(journal, [], now)
            return kept.started

        assert after(timedelta()) == 1
        assert after(SOON) == 1, "nothing is new"
        journal.add(backup("a", NOW))
        assert after(timedelta(seconds=1)) == 2
        journal.add(backup("b", NOW))
        assert after(timedelta(seconds=30)) == 2, "not so soon after the last"
        assert after(timedelta(seconds=30)) == 3
        assert after(LATEST) == 4
        journal.add(backup("c", NOW))
        kept.close()
        assert path.read_text() == "x" * 5, "the last word is written when the daemon ends"


def test_what_the_process_ends_with_is_told(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import sys; sys.exit('error: no room')")
    with Journal(str(tmp_path)) as journal:
        kept = MetricsFile(str(tmp_path / "m"), str(tmp_path), program)
        kept.look(journal, [], NOW)
        assert kept._process is not None
        kept._process.wait(30)
        with pytest.raises(DeviceError, match="ended with 1: error: no room"):
            kept.look(journal, [], NOW + LATEST)
        kept.look(journal, [], NOW + LATEST)
        kept.close()


def test_the_documents_name_every_metric() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "telling.md").read_text()
    known = source()
    figures = replace(known.figures, vaults=tuple(replace(v, newest_verified=NOW) for v in known.figures.vaults))
    families = text_string_to_metric_families(exposition(replace(known, figures=figures), NOW, "1"))
    for name in {family.name for family in families}:
        short = re.sub(r"blockvault(_vault)?_(changed|sent|stored|logical|free)_.*", r"_\2_", name)
        assert f"`{name}" in text or f"`{short}`" in text, name
