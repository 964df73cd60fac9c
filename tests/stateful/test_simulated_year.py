"""A year of a host in a minute or two: schedules in three zones with their odd days, days on which the machine was off,
transfers that fail, pass later or take longer than a day, captures that fail, a full disk, kills in mid-way.

What becomes of each moment of a schedule (its fate) is drawn from its name alone. The oracle walks the clock of each
zone minute by minute, applies the fates, and hands the points that must have been made to the oracle of retention,
which has another calendar and other code than the product. At the end the vault has exactly those points, and every
point restores to the bytes that were captured.

`BLOCKVAULT_YEAR_ITEMS=50 pytest tests/stateful/test_simulated_year.py` runs the large one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from helpers.retention_oracle import expected as retention_expected
from helpers.simulated import Captured, SimulatedHost

from blockvault.image import source
from blockvault.jobs.planning import Budgets
from blockvault.model import PointRef, Tier
from blockvault.model.job import Job, JobState, Operation, Phase, PhaseName, PhaseState
from blockvault.policy.policies import Policy
from blockvault.policy.retention import RetentionPoint, RetentionRules
from blockvault.policy.schedule import Schedule, Weekday, start_of
from blockvault.policy.selection import parse_month_day

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
ITEMS = int(os.environ.get("BLOCKVAULT_YEAR_ITEMS", "10"))
# The next year's beginning: the engine never lets points be dated before the real clock without a word.
START = datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
END = START.replace(year=START.year + 1) + 12 * HOUR
LONG = 30 * HOUR


def policies() -> list[Policy]:
    berlin = RetentionRules(keep_daily=30, keep_weekly=8, keep_monthly=6, zone="Europe/Berlin")
    york = RetentionRules(
        keep_daily=7,
        keep_weekly=4,
        keep_monthly=12,
        monthly_on=parse_month_day("first sunday"),
        zone="America/New_York",
    )
    return [
        # 02:30 is left out in Berlin's spring and comes twice in autumn; 01:30 comes twice in New York's.
        Policy("berlin", Schedule.daily("02:30", zone="Europe/Berlin"), berlin, snapshot_days=2),
        Policy("york", Schedule.daily("01:30", zone="America/New_York"), york, snapshot_days=5),
        Policy(
            "sydney",
            Schedule.weekly([Weekday.SUNDAY, Weekday.WEDNESDAY], "02:15", zone="Australia/Sydney"),
            RetentionRules(keep_weekly=20, weekly_on=Weekday.SUNDAY, keep_yearly=2, zone="Australia/Sydney"),
            snapshot_days=10,
            window=2 * HOUR,
        ),
    ]


def policy_at(number: int) -> int:
    return (0, 0, 1, 1, 2, 2, 2, 2, 0, 2)[number % 10]


# --- fates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fate:
    """What becomes of the backup of a moment."""

    capture_fails: bool = False
    transfer_fails: bool = False
    tries: int = 0  # of the transfer that fail by something that passes
    long: bool = False
    killed: bool = False  # the daemon, when the capture was done and the journal did not know it yet


def fate(item: str, moment: datetime) -> Fate:
    """By the name of the moment alone."""
    drawn = int.from_bytes(hashlib.sha256(f"{item} {moment.isoformat()}".encode()).digest()[:4], "big") % 1000
    if drawn < 20:
        return Fate(capture_fails=True)
    if drawn < 50:
        return Fate(transfer_fails=True)
    if drawn < 90:
        return Fate(tries=1 + drawn % 3)
    if drawn < 120:
        return Fate(long=True)
    if drawn < 135:
        return Fate(killed=True)
    return Fate()


def outages() -> list[tuple[datetime, datetime]]:
    """When the machine is off: over the odd nights of Berlin and New York too, and once for eleven days."""
    found = []
    for day, hours in ((17, 9), (44, 60), (86, 30), (120, 3), (151, 264), (200, 13), (260, 49), (302, 20), (338, 5)):
        begin = START + day * DAY + timedelta(hours=20, minutes=17)
        found.append((begin, begin + timedelta(hours=hours)))
    return found


# --- the oracle --------------------------------------------------------------------------------------------------


def moments_of(policy: Policy) -> list[datetime]:
    """The moments of a schedule, by walking over the minutes of each day's wall clock."""
    zone = ZoneInfo(policy.schedule.zone)
    day, found = (START - 2 * DAY).date(), []
    while day <= (END + DAY).date():
        if not policy.schedule.weekdays or day.weekday() in policy.schedule.weekdays:
            found.append(_first_minute(day, policy.schedule.at, zone))
        day += DAY
    return found


def _first_minute(day: date, at: time, zone: ZoneInfo) -> datetime:
    wall = datetime.combine(day, at)
    moment = datetime.combine(day, at, tzinfo=UTC) - 15 * HOUR
    while moment.astimezone(zone).replace(tzinfo=None) < wall:
        moment += MINUTE
    return moment


@dataclass
class Expected:
    """What must have come of one moment; `committed` is when its transfer was over, or will be."""

    moment: datetime
    taken: datetime
    in_vault: bool
    committed: datetime


def starts_of(item_id: str, policy: Policy, off: list[tuple[datetime, datetime]]) -> dict[datetime, datetime]:
    """When the backups of an item really start, and for which moment each."""
    behind = start_of(START, item_id, policy.window) - START
    starts: dict[datetime, datetime] = {}
    for moment in moments_of(policy):
        if moment <= START:
            continue
        start = moment + behind
        for begin, end in off:
            if begin <= start < end:
                start = end  # made up for at boot; a later moment of the same outage takes its place
        if start < END:
            starts[start] = max(moment, starts.get(start, moment))
    return starts


def expected_of(item: str, starts: dict[datetime, datetime], breaks: list[tuple[datetime, datetime]]) -> list[Expected]:
    """All points of an item that must have been captured, whether they expired later or not.

    Args:
        item: its name.
        starts: as `starts_of` says.
        breaks: when the daemon was gone and when it was back: outages, and kills of no length.
    """
    found: list[Expected] = []
    busy_until = START
    for start, moment in sorted(starts.items()):
        drawn = fate(item, moment)
        if drawn.capture_fails:
            continue
        skipped = start < busy_until
        in_vault = not skipped and not drawn.transfer_fails
        if drawn.long and not skipped:
            busy_until = _end_of_long(start, breaks)
            in_vault = in_vault and busy_until < END
        found.append(Expected(moment, start, in_vault, max(start, busy_until)))
    return found


def _end_of_long(start: datetime, breaks: list[tuple[datetime, datetime]]) -> datetime:
    """A transfer of 30 hours that is interrupted is begun again when the daemon is back."""
    end = start + LONG
    for begin, up in sorted(breaks):
        if start < begin < end:
            end = up + LONG
    return end


# --- the year ----------------------------------------------------------------------------------------------------


class Troubles:
    """Brings the fates about, by making the real engine fail where it reads and writes."""

    def __init__(self, host: SimulatedHost, set_hook: Callable[[Callable[[str], None] | None], None]) -> None:
        self._host = host
        self._set_hook = set_hook
        self.killed: set[str] = set()
        self.kill_now = False
        host.duration = self.duration
        host.trouble = self.trouble

    def duration(self, job: Job, phase: Phase) -> timedelta:
        drawn = self._fate(job)
        return LONG if drawn.long and phase.name is PhaseName.TRANSFER else timedelta(seconds=7)

    def _fate(self, job: Job) -> Fate:
        return fate(job.item, job.moment) if job.operation is Operation.BACKUP and job.moment else Fate()

    def trouble(self, job: Job, name: PhaseName) -> None:
        self._set_hook(None)
        drawn = self._fate(job)
        phase = self._host.journal.get(job.id).phase(name)
        assert phase is not None
        if name is PhaseName.CAPTURE and drawn.capture_fails:
            self._set_hook(_failing("snapshot.raw.begun", errno.EIO))
        elif name is PhaseName.CAPTURE and drawn.killed and job.id not in self.killed:
            self.killed.add(job.id)
            self._set_hook(_failing("job.captured", 0))
        elif name is PhaseName.TRANSFER and (drawn.transfer_fails or phase.tries <= drawn.tries):
            last = drawn.tries and phase.tries == drawn.tries
            # The last of the tries that fail fails when the point is in the vault already, and only then.
            self._set_hook(_failing("transfer.committed" if last else "transfer.layers", errno.ENOSPC))


class Killed(BaseException):
    """The process is gone."""


def _failing(name: str, number: int) -> Callable[[str], None]:
    def hook(reached: str) -> None:
        if reached == name:
            if not number:
                raise Killed
            raise OSError(number, os.strerror(number))

    return hook


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: a year writes a lot of small files."""
    top = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    folder = top / f"blockvault-year-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1500 * max(1, ITEMS // 10))
def test_a_year(memory: Path, hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_TIME_STEP_NS", 0)  # nobody writes while a snapshot is taken here
    host = SimulatedHost(memory, START, budgets=Budgets(captures=50, transfers=50, others=2))
    Troubles(host, hook)
    chosen = policies()
    names = [f"vm{number:02}" for number in range(ITEMS)]
    for number, name in enumerate(names):
        host.add(name, disks=2 if number % 5 == 0 else 1, size=96 << 10)
        host.protect(chosen[policy_at(number)], name)
    off = outages()
    for begin, end in [*(each for each in off if each[1] < END), (END, END)]:
        _run(host, begin)
        if end > begin:
            host.kill()
            host.now = end
            host.boot()
    hook(None)
    _run(host, END + MINUTE)
    _check(host, dict(zip(names, (chosen[policy_at(number)] for number in range(ITEMS)), strict=True)), off)
    host.close()


def _run(host: SimulatedHost, moment: datetime) -> None:
    """Go on until then; a kill in between is followed by a boot at once."""
    while True:
        try:
            host.run_until(moment)
        except Killed:
            host.kill()
            host.boot()
            continue
        return


def _check(host: SimulatedHost, policy_of: dict[str, Policy], off: list[tuple[datetime, datetime]]) -> None:
    by_number = {each.number: each for each in host.captured}
    now = max(job.created for job in host.journal.newest() if job.operation is Operation.PRUNE)
    ended = Counter(job.state for job in host.jobs_ended if job.operation is Operation.BACKUP)
    told: list[str] = []
    restored = 0
    starts = {name: starts_of(host.vault.item(name).id, policy, off) for name, policy in policy_of.items()}
    kills = [(start, start) for name in starts for start, moment in starts[name].items() if fate(name, moment).killed]
    for name, policy in policy_of.items():
        expected = expected_of(name, starts[name], [*off, *kills])
        captured = {each.taken: each for each in host.captured if each.item == name}
        assert sorted(captured) == [each.taken for each in expected], f"{name}: other points were captured"
        origin = host.vault.origin
        points = {
            RetentionPoint(PointRef(origin, captured[each.taken].number), each.taken): each.committed
            for each in expected
            if each.in_vault
        }
        # What came after the last expiry is there; of what was there it has left what the rules keep.
        survivors = {point.ref.number for point, committed in points.items() if committed >= now}
        survivors |= _survivors([each for each, committed in points.items() if committed < now], policy.retention, now)
        infos = host.vault.points(name)
        in_vault = {info.number for info in infos if info.tier is not Tier.SNAPSHOT}
        assert in_vault == survivors, f"{name}: {sorted(in_vault ^ survivors)}"
        _check_snapshots(policy, expected, captured, infos, now=max(each.taken for each in host.captured))
        for info in infos:
            host.check_restores(info.label, by_number[info.number])
            if info.tier is Tier.BOTH:
                host.check_restores(info.label, by_number[info.number], source="vault")
            restored += 1
        told.append(f"{name}: {len(expected)} captured, {len(points)} in the vault, {len(survivors)} survive")
    assert ended[JobState.FAILED] > 0, ended
    assert ended[JobState.COMPLETED_WITH_WARNING] > 0, ended
    skipped = [job for job in host.jobs_ended if any(phase.state is PhaseState.SKIPPED for phase in job.phases)]
    assert any(job.state is JobState.COMPLETED for job in skipped), "no transfer was overrun by the next capture"
    assert restored > 20 * len(policy_of) // 2
    assert not host.journal.open_jobs() or all(job.operation is Operation.BACKUP for job in host.journal.open_jobs())
    report = host.vault.verify()
    assert not report.damage
    print("\n".join(told), dict(ended))


def _survivors(points: list[RetentionPoint], rules: RetentionRules, now: datetime) -> set[int]:
    found = retention_expected(points, rules, now)
    return {ref.number for ref, (keep, _) in found.items() if keep}


def _check_snapshots(
    policy: Policy, expected: list[Expected], captured: dict[datetime, Captured], infos: list[Any], *, now: datetime
) -> None:
    """Snapshots younger than the policy's days are there; of older ones only what no newer vault point stands for."""
    there = {info.number for info in infos if info.tier is not Tier.VAULT}
    young = {captured[each.taken].number for each in expected if each.taken + policy.snapshot_days * DAY > now}
    # What was in the vault when snapshots were expired last, at the newest capture of any item.
    newest = max((captured[each.taken].number for each in expected if each.in_vault and each.taken < now), default=0)
    assert young <= there, f"snapshots are missing: {sorted(young - there)}"
    assert all(number in young or number >= newest for number in there), f"old snapshots are left: {there - young}"
