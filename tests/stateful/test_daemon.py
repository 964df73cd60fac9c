"""The daemon over days of a simulated clock: what is due, what is not, clocks that jump, items that change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.simulated import SimulatedHost

from blockvault.jobs.phases import backup_job
from blockvault.jobs.watch import Rate
from blockvault.model import Tier
from blockvault.model.job import Job, JobState, Operation, Phase, PhaseName, PhaseState, Trigger
from blockvault.policy.policies import Policy
from blockvault.policy.retention import RetentionRules
from blockvault.policy.schedule import Schedule

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
START = datetime(datetime.now(UTC).year + 1, 3, 1, 12, tzinfo=UTC)
NIGHTLY = Policy(
    "nightly", Schedule.daily("02:00", zone="UTC"), RetentionRules(keep_daily=5), window=timedelta(0), snapshot_days=2
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path, START)
    for name in ("web", "mail"):
        made.add(name)
    yield made
    made.close()


def backups(host: SimulatedHost, item: str = "web") -> list[Job]:
    return [job for job in host.journal.newest() if job.operation is Operation.BACKUP and job.item == item][::-1]


def moments(host: SimulatedHost, item: str = "web") -> list[str]:
    return [job.moment.strftime("%d %H:%M") for job in backups(host, item) if job.moment]


def test_nothing_is_taken_at_once_and_then_every_night(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + 13 * HOUR)
    assert backups(host) == []
    host.run_until(START + 3 * DAY)
    assert moments(host) == ["02 02:00", "03 02:00", "04 02:00"]
    assert backups(host, "mail") == []
    assert {job.state for job in backups(host)} == {JobState.COMPLETED}


def test_a_moment_before_the_protection_or_while_it_was_stopped_is_not_made_up_for(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + DAY)
    host.vault.unprotect(host.vault.plan_unprotect(["web"]), now=host.now)
    host.run_until(START + 4 * DAY)
    assert moments(host) == ["02 02:00"]
    host.vault.resume("web", now=host.now)
    host.run_until(host.now + HOUR)
    assert moments(host) == ["02 02:00"], "to resume takes no point"
    host.run_until(START + 5 * DAY)
    assert moments(host) == ["02 02:00", "06 02:00"]


def test_a_clock_that_is_set_back_a_little_takes_no_point_twice(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + 2 * DAY)
    host.now -= DAY
    host.run_until(host.now + 2 * DAY)
    assert moments(host) == ["02 02:00", "03 02:00", "04 02:00"]


def test_a_clock_that_ran_ahead_for_years_does_not_end_the_schedule(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + DAY)
    host.now = START + 3000 * DAY
    host.run_until(host.now + HOUR)
    host.now = START + 2 * DAY
    host.run_until(START + 5 * DAY)
    taken = [job.moment.day for job in backups(host) if job.moment and job.created < START + 5 * DAY]
    assert taken == [2, 4, 5, 6], "the night in which it did not know better is lost"
    assert any("the clock was set back" in note for note in host.daemon.notes)


def test_a_renamed_item_and_a_changed_policy_are_seen(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + DAY)
    host.vault.set_item("web", new_name="www")
    host.images["www"] = host.images["web"]
    host.run_until(START + 2 * DAY)
    host.vault.set_policy("nightly", schedule=Schedule.daily("05:00", zone="UTC"), now=host.now)
    host.run_until(START + 3 * DAY)
    assert moments(host) == ["02 02:00"]
    assert moments(host, "www") == ["03 02:00", "03 05:00", "04 05:00"], "a moment that is passed is made up for"


def test_a_removed_item_fails_its_waiting_job_and_nothing_else(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web", "mail")
    job = host.journal.add(
        backup_job(
            vault="default",
            vault_id=host.vault.id,  # type: ignore[arg-type]
            item_id="0" * 32,  # type: ignore[arg-type]
            item="gone",
            trigger=Trigger.ON_DEMAND,
            now=host.now,
        )
    )
    assert job is not None
    host.images["gone"] = []
    host.run_until(START + DAY)
    ended = host.journal.get(job.id)
    assert ended.state is JobState.FAILED
    assert ended.phases[0].problem is not None
    assert ended.phases[0].problem.kind == "item.not-found"
    assert moments(host) == moments(host, "mail") == ["02 02:00"]


def test_a_transfer_that_is_overrun_is_left_to_end_and_the_next_carries_its_churn(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + DAY)

    def slow(job: Job, phase: Phase) -> timedelta:
        first = job.moment is not None and job.moment.day == 3
        return 30 * HOUR if first and phase.name is PhaseName.TRANSFER else timedelta(seconds=5)

    host.duration = slow
    host.run_until(START + 4 * DAY)
    states = [[phase.state for phase in job.phases] for job in backups(host)]
    C, S = PhaseState.COMPLETED, PhaseState.SKIPPED
    assert states == [[C, C], [C, C], [C, S], [C, C]]
    found = {info.number: info.tier for info in host.vault.points("web")}
    tiers = [found[job.number] for job in backups(host) if job.number]
    # The snapshot of the newest transferred point outlives its days until the next is in the vault.
    assert tiers == [Tier.VAULT, Tier.BOTH, Tier.SNAPSHOT, Tier.BOTH]
    for captured in host.captured:
        host.check_restores(str(captured.number), captured)


def test_while_a_transfer_runs_its_snapshot_restores(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.duration = lambda _job, phase: 5 * HOUR if phase.name is PhaseName.TRANSFER else timedelta(0)
    host.run_until(START + 15 * HOUR)
    (job,) = backups(host)
    assert [phase.state for phase in job.phases] == [PhaseState.COMPLETED, PhaseState.IN_PROGRESS]
    host.check_restores(str(job.number), host.captured[0])


def test_expired_points_go_and_the_rest_restores(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + 12 * DAY + 2 * HOUR)
    infos = host.vault.points("web")
    assert [info.taken.day for info in infos] == [9, 10, 11, 12, 13]
    assert len(host.vault.points("web", deleted=True)) == 12, "the others can be brought back for 14 days"
    by_number = {captured.number: captured for captured in host.captured}
    for info in infos:
        host.check_restores(info.label, by_number[info.number], source="vault")
    prunes = [job for job in host.journal.newest() if job.operation is Operation.PRUNE]
    assert {job.state for job in prunes} == {JobState.COMPLETED}
    assert any(job.details["expired"] for job in prunes)


def test_snapshots_of_an_item_that_is_not_captured_any_more_expire_too(host: SimulatedHost) -> None:
    host.protect(NIGHTLY, "web")
    host.run_until(START + 3 * DAY)
    host.vault.unprotect(host.vault.plan_unprotect(["web"]), now=host.now)
    host.run_until(START + 8 * DAY)
    tiers = [info.tier for info in host.vault.points("web")]
    assert tiers == [Tier.VAULT, Tier.VAULT, Tier.BOTH], "that of the newest point stays"


def test_a_daemon_that_looks_often_does_no_more_than_one_that_sleeps(host: SimulatedHost) -> None:
    """A thousand looks open no vault again and make no job again."""
    host.protect(NIGHTLY, "web")
    host.run_until(START + DAY + timedelta(hours=2))  # upkeep falls due in the hour after noon
    opened: list[str] = []
    inner = host.opened

    def counted(name: str) -> Any:
        opened.append(name)
        return inner(name)

    host.daemon._vaults._open = counted
    before = host.journal.revision
    for _ in range(1000):
        host.now += timedelta(seconds=1)
        host.daemon.tick()
    assert opened == []
    assert host.journal.revision == before


@pytest.mark.parametrize("limit", [200_000, None])
def test_a_rate_is_kept_and_ends_with_its_hours(limit: int | None) -> None:
    rate = Rate(lambda _now: limit, lambda: START)
    begun = time.monotonic()
    for _ in range(5):
        rate.wait(20_000, lambda: False)
    took = time.monotonic() - begun
    if limit is None:
        assert took < 0.2
    else:
        assert took >= 0.45
    begun = time.monotonic()
    rate.wait(10**9, lambda: True)
    assert time.monotonic() - begun < 5, "a cancelled transfer does not wait"


def test_a_rate_that_ends_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def limit(_now: datetime) -> int | None:
        asked.append(1)
        return 1000 if len(asked) < 4 else None

    begun = time.monotonic()
    Rate(limit, lambda: START).wait(10**9, lambda: False)
    assert time.monotonic() - begun < 30


def test_failures_that_pass_are_tried_again_by_the_daemon(host: SimulatedHost, hook: Callable[..., None]) -> None:
    host.protect(NIGHTLY, "web")
    failing = [3]

    def fail(name: str) -> None:
        if name == "transfer.layers" and failing[0]:
            failing[0] -= 1
            raise OSError(28, "No space left on device")

    hook(fail)
    host.run_until(START + DAY)
    (job,) = backups(host)
    assert job.state is JobState.COMPLETED
    assert job.phases[1].tries == 4
    lines = [line.text for line in host.journal.logs(job.id) if line.level == "error"]
    assert len(lines) == 3
    assert host.vault.points("web")[0].tier is Tier.BOTH


def test_a_group_is_captured_at_one_instant(reflink_path: Path) -> None:
    host = SimulatedHost(reflink_path / "host", START)
    for name in ("web", "mail", "db"):
        host.add(name)
    for name in ("web", "db"):
        host.vault.set_item(name, group="shop")
    policy = Policy("spread", Schedule.daily("02:00", zone="UTC"), NIGHTLY.retention, window=HOUR)
    host.protect(policy, "web", "mail", "db")
    host.run_until(START + 2 * DAY)
    for day in (0, 1):
        web, db = backups(host)[day], backups(host, "db")[day]
        assert web.state is db.state is JobState.COMPLETED
        assert web.created == db.created, "a group starts together"
        assert web.details["group"] == db.details["group"] == "shop"
        leaders = {job.details.get("captured_by") for job in (web, db)} - {None}
        assert leaders <= {web.id, db.id}
        assert len(leaders) == 1
        points = [host.vault.point(str(job.number)).point for job in (web, db)]
        assert all(point is not None and point.skew_ms is not None and point.group == "shop" for point in points)
        assert points[0].skew_ms == points[1].skew_ms  # type: ignore[union-attr]
    assert "captured_by" not in backups(host, "mail")[0].details
    for captured in host.captured:
        host.check_restores(str(captured.number), captured)
    host.close()


def test_a_group_that_cannot_be_cloned_is_captured_one_by_one_and_says_so(host: SimulatedHost) -> None:
    for name in ("web", "mail"):
        host.vault.set_item(name, group="shop")
    host.protect(NIGHTLY, "web", "mail")
    host.run_until(START + DAY)
    for name in ("web", "mail"):
        (job,) = backups(host, name)
        assert job.state is JobState.COMPLETED_WITH_WARNING
        assert [warning.kind for warning in job.warnings] == ["group.cannot-clone"]
        assert host.vault.points(name)[0].tier is Tier.BOTH


def test_a_group_whose_capture_was_killed_finds_all_its_snapshots(reflink_path: Path, hook: Any) -> None:
    host = SimulatedHost(reflink_path / "host", START)
    for name in ("web", "db"):
        host.add(name)
        host.vault.set_item(name, group="shop")
    host.protect(NIGHTLY, "web", "db")

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == "job.captured":
            raise Killed

    hook(kill)
    with pytest.raises(Killed):
        host.run_until(START + DAY)
    hook(None)
    host.kill()
    host.boot()
    host.run_until(START + DAY)
    for name in ("web", "db"):
        (job,) = backups(host, name)
        assert job.state is JobState.COMPLETED
        assert job.phases[0].tries == 2
        assert [info.number for info in host.vault.points(name)] == [job.number], "it was not captured again"
    host.close()
