"""The journal of jobs: several processes, damage, growth, history."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blockvault.errors import NotFoundError
from blockvault.ids import ItemId, VaultId
from blockvault.jobs import phases
from blockvault.model.job import Job, JobState, PhaseName, Trigger
from blockvault.store import journal as journal_module
from blockvault.store.journal import Handled, Journal, LogLine, id_number, id_text, jobs_while

NOW = datetime(2026, 11, 20, 2, tzinfo=UTC)


def backup(item: str = "i", now: datetime = NOW, moment: datetime | None = None) -> Job:
    return phases.backup_job(
        vault="default",
        vault_id=VaultId("v"),
        item_id=ItemId(item),
        item=item,
        trigger=Trigger.SCHEDULE,
        now=now,
        moment=moment,
    )


def add(journal: Journal, job: Job, handled: Handled | None = None) -> Job:
    made = journal.add(job, handled=handled)
    assert made is not None
    return made


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        made = add(journal, replace(backup(), item="a\udcffb", comment="ü", retain_until=NOW))
        begun = journal.change(made.id, lambda job, _: phases.begin(job, PhaseName.CAPTURE, NOW))
    with Journal(str(tmp_path)) as journal:
        assert journal.get(made.id) == begun
        assert journal.open_jobs() == [begun]
        assert journal.open_jobs("other") == []


def test_ids_are_in_order_of_time_and_none_comes_twice(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        made = [add(journal, backup(now=NOW + timedelta(seconds=number // 300))).id for number in range(900)]
        assert len(set(made)) == 900
        assert made == sorted(made)
        assert [job.id for job in journal.newest(5)] == made[:-6:-1]
        assert [job.id for job in journal.newest(2, before=made[10])] == [made[9], made[8]]
        assert [job.id for job in jobs_while(journal, lambda _: True, page=7)] == made[::-1]
    assert all(id_text(id_number(each)) == each for each in made)


@pytest.mark.parametrize(
    "name", ["", "j-", "j-0000000i", "j-000000000", "x-00000000", "j-0000000", "../x", "j-0000000\n"]
)
def test_what_is_no_id_names_no_job(tmp_path: Path, name: str) -> None:
    with Journal(str(tmp_path)) as journal, pytest.raises(NotFoundError):
        journal.get(name)
    with pytest.raises(NotFoundError):
        id_number(name)


def test_a_moment_is_handled_once(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        moment = Handled("v", "i", NOW)
        assert journal.add(backup(), handled=moment) is not None
        assert journal.add(backup(), handled=moment) is None
        assert journal.add(backup(), handled=Handled("v", "i", NOW - timedelta(days=1))) is None
        assert journal.add(backup(), handled=Handled("v", "j", NOW)) is not None
        assert journal.handled("v") == {"i": NOW, "j": NOW}
        assert journal.handled("w") == {}
        assert len(journal.newest()) == 2


def test_an_ended_job_is_open_no_more_and_its_siblings_are_told(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        first, second, other = add(journal, backup()), add(journal, backup()), add(journal, backup("other"))
        seen: list[str] = []

        def end(job: Job, others: list[Job]) -> Job:
            seen.extend(each.id for each in others)
            return phases.ask_to_cancel(job, NOW)

        assert journal.change(first.id, end).state is JobState.CANCELLED
        assert seen == [second.id]
        assert [job.id for job in journal.open_jobs()] == [second.id, other.id]


def _handle(folder: str, count: int, queue: multiprocessing.Queue[int]) -> None:
    made = 0
    with Journal(folder) as journal:
        for number in range(count):
            moment = NOW + timedelta(hours=number)
            made += journal.add(backup(moment=moment), handled=Handled("v", "i", moment)) is not None
    queue.put(made)


def test_of_two_daemons_at_one_journal_each_moment_is_handled_by_one(tmp_path: Path) -> None:
    """They cannot be: the lock sees to that. But where a lock fails, as on some network file systems, this holds."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    children = [context.Process(target=_handle, args=(str(tmp_path), 40, queue)) for _ in range(3)]
    for child in children:
        child.start()
    made = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    with Journal(str(tmp_path)) as journal:
        jobs = journal.newest()
    assert sum(made) == len(jobs)
    assert len({job.moment for job in jobs}) == len(jobs), "a moment was handled twice"
    assert max(job.moment for job in jobs if job.moment) == NOW + timedelta(hours=39)


def test_logs_are_kept_in_order_and_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOG_LINES_MAX", 10)
    with Journal(str(tmp_path)) as journal:
        first, second = add(journal, backup()), add(journal, backup())
        for number in range(8):
            journal.log(first.id, [LogLine(NOW, "note", f"{number} {part}") for part in "ab"])
        journal.log(second.id, [LogLine(NOW, "warning", "another's")])
        texts = [line.text for line in journal.logs(first.id)]
        assert texts[:9] == [f"{number} {part}" for number in range(5) for part in "ab"][:9]
        assert texts[9:] == ["more was said than a log keeps"]
        assert journal.logs(second.id) == [LogLine(NOW, "warning", "another's")]


def test_history_is_forgotten_but_no_open_job(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        old, waiting, new = (add(journal, backup(now=NOW + timedelta(days=days))) for days in (0, 1, 400))
        for job in (old, new):
            journal.change(job.id, lambda job, _: phases.ask_to_cancel(job, job.created))
        journal.log(old.id, [LogLine(NOW, "note", "x")])
        assert journal.trim(NOW + timedelta(days=399)) == 0, "a clock that ran ahead has few newer jobs"
        more = {add(journal, backup(now=NOW + timedelta(days=400))).id for _ in range(journal_module.TRIM_NEWER_LEAST)}
        assert journal.trim(NOW + timedelta(days=399)) == 1
        assert {job.id for job in journal.newest()} == {waiting.id, new.id, *more}
        with pytest.raises(NotFoundError):
            journal.logs(old.id)


def test_it_grows_beyond_its_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAP_BYTES_START", 64 << 10)
    with Journal(str(tmp_path)) as journal:
        made = add(journal, backup())
        journal.log(made.id, [LogLine(NOW, "note", "x" * 4000) for _ in range(100)])
        assert len(journal.logs(made.id)) == 100


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_journal_is_set_aside(tmp_path: Path, damage: str) -> None:
    with Journal(str(tmp_path)) as journal:
        for _ in range(50):
            add(journal, backup())
    data = tmp_path / "jobs" / "data.mdb"
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\xff" * len(content))
    with Journal(str(tmp_path)) as journal:
        assert journal.set_aside == str(tmp_path / "jobs.damaged-1")
        assert journal.newest() == []
        assert journal.add(backup()) is not None
    assert (tmp_path / "jobs.damaged-1" / "data.mdb").exists()


def test_the_lock_of_a_job_has_one_holder_and_goes_with_its_process(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal:
        first, second = add(journal, backup()), add(journal, backup())
        pid = os.fork()
        if pid == 0:
            os._exit(0 if journal.lock(first.id).take() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        lock = journal.lock(first.id)
        assert lock.take(), "the child that had it is gone"
        assert not journal.lock(first.id).take()
        assert journal.lock(second.id).take()
        lock.release()
        assert journal.lock(first.id).take()
