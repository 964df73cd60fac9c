"""The journal of jobs of one host, in LMDB: `<state>/jobs/`.

What is to be done, what runs, and what became of everything, for all vaults of the host. Jobs come and go by several
processes at once (the daemon, its workers, the command line), so every change is one write transaction that reads the
job, decides and writes it: two that end or cancel a job at the same moment come one after the other.

Beside the jobs it keeps, per item, the newest moment of its schedule that was handled, in the same transaction as the
job that handles it: a moment is never handled twice, and a killed daemon forgets none.

Invariants:
- What a call has returned is durable (LMDB syncs every commit).
- A job's id is given once; ids are in order of time as far as the clock was.
- The table of open jobs has exactly those whose state is in progress.
- The totals have every job that ended, once: they are added to in the transaction that ends it, and not trimmed.
- The journal is history and a to-do list, never the only place of anything that a restore needs: where LMDB finds it
  damaged it is set aside (`jobs.damaged-N`) and begun anew, and snapshots that waited wait still.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from blockvault.clock import from_text, to_text
from blockvault.errors import CorruptionError, NotFoundError
from blockvault.format import jsontext
from blockvault.model.job import Job
from blockvault.model.totals import ItemSuccess, VaultTotals, add, success_of
from blockvault.store.environment import Environment
from blockvault.store.locks import NumberLock

MAP_BYTES_START = 64 << 20
LOG_LINES_MAX = 2_000  # of one job
LOG_TEXT_MAX = 4_000
TRIM_NEWER_LEAST = 50
ID_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing to mistake for another
_ID_DIGITS = 8
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_PER_SECOND = 256
_NO_VAULT = b"-"  # a key is not empty

T = TypeVar("T")


class LogLine(NamedTuple):
    """One line of a job's log."""

    at: datetime
    level: str  # note, warning or error
    text: str


class Handled(NamedTuple):
    """A moment of an item's schedule that a job makes up for."""

    vault_id: str
    item_id: str
    moment: datetime


def id_text(number: int) -> str:
    """`j-7k2m9x4q`: a job's id from its number."""
    letters = ""
    for _ in range(_ID_DIGITS):
        number, rest = divmod(number, 32)
        letters = ID_LETTERS[rest] + letters
    return f"j-{letters}"


def id_number(job_id: str) -> int:
    """The number of a job's id. Raises `NotFoundError` (`job.not-found`) for what is no id."""
    letters = job_id.removeprefix("j-")
    if len(letters) != _ID_DIGITS or not job_id.startswith("j-") or set(letters) - set(ID_LETTERS):
        raise _no_job(job_id)
    number = 0
    for letter in letters:
        number = number * 32 + ID_LETTERS.index(letter)
    return number


def _no_job(job_id: str) -> NotFoundError:
    return NotFoundError("job.not-found", f"there is no job '{job_id}'", do="see `blockvault job list`")


class Journal:
    """The opened journal of a state folder; one in a process at a time (LMDB's rule)."""

    def __init__(self, state_dir: str) -> None:
        self._environment = Environment(
            os.path.join(state_dir, "jobs"),
            (b"jobs", b"open", b"handled", b"logs", b"totals", b"successes"),
            noun="the journal of jobs",
            kind="journal.failed",
            map_bytes=MAP_BYTES_START,
        )
        (
            self._jobs,
            self._open_jobs,
            self._handled,
            self._logs,
            self._totals,
            self._successes,
        ) = self._environment.databases
        try:
            self._begin_totals()
        except BaseException:
            self._environment.close()
            raise

    @property
    def set_aside(self) -> str | None:
        """Where a damaged journal was put when this one was opened."""
        return self._environment.set_aside

    def _begin_totals(self) -> None:
        """Count the jobs of a journal that was written before there were totals."""

        def is_counted(txn: Any) -> bool:
            return bool(txn.stat(self._totals)["entries"]) or not txn.stat(self._jobs)["entries"]

        def work(txn: Any) -> None:
            if is_counted(txn):
                return  # another process was faster
            found: dict[str, VaultTotals] = {}
            for key, value in txn.cursor(db=self._jobs):
                with contextlib.suppress(CorruptionError):
                    job = _decoded(bytes(key).decode(), value)
                    if not job.is_open:
                        found[job.vault_id] = add(found.get(job.vault_id, VaultTotals()), job)
                        self._note_success(txn, job)
            for vault_id, totals in found.items():
                self._put_totals(txn, vault_id, totals)

        if not self._environment.run(is_counted, write=False):
            self._environment.run(work, write=True)

    def close(self) -> None:
        """Close the journal; safe to call again."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # --- jobs --------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Rises with every change by any process: cheap to ask whether there is something new."""
        return self._environment.revision

    def add(self, job: Job, *, handled: Handled | None = None) -> Job | None:
        """Write a new job, with an id of its own (that of `job` is not looked at).

        Args:
            job: the job.
            handled: the moment that it makes up for. Is that, or a later one, handled already, no job is made.

        Returns:
            the job with its id; None if the moment was handled already.
        """

        def work(txn: Any) -> Job | None:
            if handled is not None:
                key = _handled_key(handled.vault_id, handled.item_id)
                known = txn.get(key, db=self._handled)
                if known is not None and from_text(bytes(known).decode()) >= handled.moment:
                    return None
                txn.put(key, to_text(handled.moment).encode(), db=self._handled)
            number = max(0, int((job.created - _EPOCH).total_seconds())) * _PER_SECOND
            while txn.get(id_text(number).encode(), db=self._jobs) is not None:
                number += 1
            made = replace(job, id=id_text(number))
            self._put(txn, made)
            return made

        return self._environment.run(work, write=True)

    def change(self, job_id: str, decide: Callable[[Job, list[Job]], Job | None]) -> Job:
        """Change a job by what it is now.

        Args:
            job_id: the job.
            decide: gets the job and the other open jobs of its item, returns what it shall be; None: leave it.

        Returns:
            the job as it is now.

        Raises:
            NotFoundError: `job.not-found`.
        """

        def work(txn: Any) -> Job:
            job = self._get(txn, job_id)
            others = [each for each in self._open_of(txn, job.item_id) if each.id != job.id]
            changed = decide(job, others)
            if changed is None:
                return job
            self._put(txn, changed)
            return changed

        return self._environment.run(work, write=True)

    def _put(self, txn: Any, job: Job) -> None:
        before = txn.get(job.id.encode(), db=self._jobs)
        if not job.is_open and (before is None or _decoded(job.id, before).is_open):
            self._count(txn, job)
        txn.put(job.id.encode(), jsontext.encode(job), db=self._jobs)
        key = f"{job.item_id}/{job.id}".encode()
        if job.is_open:
            txn.put(key, b"", db=self._open_jobs)
        else:
            txn.delete(key, db=self._open_jobs)

    def _count(self, txn: Any, job: Job) -> None:
        """Add a job that ends now to the totals."""
        known = txn.get(job.vault_id.encode() or _NO_VAULT, db=self._totals)
        totals = jsontext.decode(bytes(known), VaultTotals) if known is not None else VaultTotals()
        self._put_totals(txn, job.vault_id, add(totals, job))
        self._note_success(txn, job)

    def _put_totals(self, txn: Any, vault_id: str, totals: VaultTotals) -> None:
        txn.put(vault_id.encode() or _NO_VAULT, jsontext.encode(totals), db=self._totals)

    def _note_success(self, txn: Any, job: Job) -> None:
        success = success_of(job)
        if success is None:
            return
        key = _handled_key(job.vault_id, job.item_id)
        known = txn.get(key, db=self._successes)
        if known is None or jsontext.decode(bytes(known), ItemSuccess).taken < success.taken:
            txn.put(key, jsontext.encode(success), db=self._successes)

    def _get(self, txn: Any, job_id: str) -> Job:
        data = txn.get(job_id.encode(), db=self._jobs) if job_id else None
        if data is None:
            raise _no_job(job_id)
        return _decoded(job_id, data)

    def _open_of(self, txn: Any, item_id: str | None) -> list[Job]:
        prefix = b"" if item_id is None else f"{item_id}/".encode()
        found = []
        with txn.cursor(db=self._open_jobs) as cursor:
            going = cursor.set_range(prefix) if prefix else cursor.first()
            while going and cursor.key().startswith(prefix):
                found.append(self._get(txn, bytes(cursor.key()).rpartition(b"/")[2].decode()))
                going = cursor.next()
        return found

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises `NotFoundError` (`job.not-found`)."""
        return self._environment.run(lambda txn: self._get(txn, job_id), write=False)

    def open_jobs(self, item_id: str | None = None) -> list[Job]:
        """The jobs in progress, oldest first; of one item, or of all."""
        found = self._environment.run(lambda txn: self._open_of(txn, item_id), write=False)
        return sorted(found, key=lambda job: job.id)

    def newest(self, count: int | None = None, *, before: str | None = None) -> list[Job]:
        """The newest jobs, newest first, open or ended.

        Args:
            count: at most so many; None: all.
            before: only jobs older than the one of this id.
        """

        def work(txn: Any) -> list[Job]:
            found: list[Job] = []
            with txn.cursor(db=self._jobs) as cursor:
                if before is None:
                    going = cursor.last()
                else:
                    going = cursor.prev() if cursor.set_range(before.encode()) else cursor.last()
                while going and (count is None or len(found) < count):
                    found.append(_decoded(bytes(cursor.key()).decode(), cursor.value()))
                    going = cursor.prev()
            return found

        return self._environment.run(work, write=False)

    def lock(self, job_id: str) -> NumberLock:
        """Held by the process that works on a job: whoever can take it knows that nobody does."""
        return NumberLock(os.path.join(self._environment.folder, "at-work"), id_number(job_id))

    # --- schedules ---------------------------------------------------------------------------------------------

    def handled(self, vault_id: str) -> dict[str, datetime]:
        """The newest handled moment of each item of a vault, by the item's id."""
        prefix = f"{vault_id}/".encode()

        def work(txn: Any) -> dict[str, datetime]:
            found = {}
            with txn.cursor(db=self._handled) as cursor:
                going = cursor.set_range(prefix)
                while going and cursor.key().startswith(prefix):
                    item = bytes(cursor.key())[len(prefix) :].decode()
                    found[item] = from_text(bytes(cursor.value()).decode())
                    going = cursor.next()
            return found

        return self._environment.run(work, write=False)

    def set_handled(self, moments: Sequence[Handled]) -> None:
        """Begin schedules: what lies before these moments is not made up for."""

        def work(txn: Any) -> None:
            for each in moments:
                key = _handled_key(each.vault_id, each.item_id)
                txn.put(key, to_text(each.moment).encode(), db=self._handled)

        self._environment.run(work, write=True)

    # --- totals ------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, VaultTotals]:
        """What all jobs that ever ended add up to, by the vault's id."""

        def work(txn: Any) -> dict[str, VaultTotals]:
            cursor = txn.cursor(db=self._totals)
            return {bytes(key).decode(): jsontext.decode(bytes(value), VaultTotals) for key, value in cursor}

        return self._environment.run(work, write=False)

    def successes(self) -> list[ItemSuccess]:
        """The newest backup of each item that got into its vault."""

        def work(txn: Any) -> list[ItemSuccess]:
            return [jsontext.decode(bytes(value), ItemSuccess) for _, value in txn.cursor(db=self._successes)]

        return self._environment.run(work, write=False)

    # --- logs and history --------------------------------------------------------------------------------------

    def log(self, job_id: str, lines: Sequence[LogLine]) -> None:
        """Add lines to a job's log; of one job at most `LOG_LINES_MAX` are kept, the last says so."""
        if not lines:
            return

        def work(txn: Any) -> None:
            with txn.cursor(db=self._logs) as cursor:
                number = _last_line(cursor, job_id) + 1
            for line in lines:
                if number > LOG_LINES_MAX:
                    return
                text = line.text[:LOG_TEXT_MAX] if number < LOG_LINES_MAX else "more was said than a log keeps"
                value = jsontext.encode((to_text(line.at), line.level, text))
                txn.put(f"{job_id}/{number:06d}".encode(), value, db=self._logs)
                number += 1

        self._environment.run(work, write=True)

    def logs(self, job_id: str) -> list[LogLine]:
        """The log of a job, oldest line first. Raises `NotFoundError` (`job.not-found`)."""
        prefix = f"{job_id}/".encode()

        def work(txn: Any) -> list[LogLine]:
            self._get(txn, job_id)
            found = []
            with txn.cursor(db=self._logs) as cursor:
                going = cursor.set_range(prefix)
                while going and cursor.key().startswith(prefix):
                    at, level, text = jsontext.decode(bytes(cursor.value()), tuple[str, str, str])
                    found.append(LogLine(from_text(at), level, text))
                    going = cursor.next()
            return found

        return self._environment.run(work, write=False)

    def trim(self, before: datetime) -> int:
        """Forget jobs that ended before a moment, with their logs; returns how many. Open jobs stay.

        None goes where fewer than `TRIM_NEWER_LEAST` are newer: the moment may be that of a clock that ran ahead.
        """

        def work(txn: Any) -> int:
            gone = []
            with txn.cursor(db=self._jobs) as cursor:
                newer = sum(1 for _ in islice(_newer(cursor, before), TRIM_NEWER_LEAST))
            if newer < TRIM_NEWER_LEAST:
                return 0
            with txn.cursor(db=self._jobs) as cursor:
                for key, value in cursor:  # in order of time
                    job = _decoded(bytes(key).decode(), value)
                    if job.created >= before:
                        break
                    if job.ended is not None and job.ended < before:
                        gone.append(job.id)
            for job_id in gone:
                txn.delete(job_id.encode(), db=self._jobs)
                with txn.cursor(db=self._logs) as cursor:
                    prefix = f"{job_id}/".encode()
                    going = cursor.set_range(prefix)
                    while going and cursor.key().startswith(prefix):
                        going = cursor.delete()
            return len(gone)

        return self._environment.run(work, write=True)


def _newer(cursor: Any, moment: datetime) -> Iterator[Job]:
    """Jobs made since a moment, newest first."""
    going = cursor.last()
    while going:
        job = _decoded(bytes(cursor.key()).decode(), cursor.value())
        if job.created < moment:
            return
        yield job
        going = cursor.prev()


def _handled_key(vault_id: str, item_id: str) -> bytes:
    return f"{vault_id}/{item_id}".encode()


def _last_line(cursor: Any, job_id: str) -> int:
    """The number of the last line of a job's log; 0 if it has none."""
    prefix = f"{job_id}/".encode()
    going = cursor.prev() if cursor.set_range(f"{job_id}0".encode()) else cursor.last()  # "0" comes after "/"
    return int(bytes(cursor.key())[len(prefix) :]) if going and cursor.key().startswith(prefix) else 0


def _decoded(job_id: str, data: Any) -> Job:
    try:
        job: Job = jsontext.decode(bytes(data), Job)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(
            "journal.damaged",
            f"the journal's record of job {job_id} cannot be read",
            why=str(error),
            do="move the folder jobs/ of the state folder away: a new journal is begun; points are not touched",
        ) from None
    return job


def jobs_while(journal: Journal, wanted: Callable[[Job], bool], page: int = 200) -> Iterator[Job]:
    """Jobs newest first, as long as they are wanted, a page at a time."""
    before: str | None = None
    while True:
        found = journal.newest(page, before=before)
        for job in found:
            if not wanted(job):
                return
            yield job
        if len(found) < page:
            return
        before = found[-1].id
