"""What is due, and what may start: with a thousand items, missed moments, budgets and several vaults."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from blockvault.ids import ItemId, VaultId
from blockvault.jobs import phases
from blockvault.jobs.planning import Budgets, Scheduled, due_now, to_start
from blockvault.model.job import Job, PhaseName, PhaseState, Problem, Trigger
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule, start_of

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NIGHTLY = Policy("nightly", Schedule.daily("02:00", zone="UTC"), window=timedelta(minutes=30))


def item(number: int, handled: datetime, policy: Policy = NIGHTLY) -> Scheduled:
    return Scheduled(ItemId(f"{number:032x}"), f"item-{number}", policy, handled)


def test_one_job_makes_up_for_all_that_was_missed() -> None:
    due, _ = due_now([item(1, NOW - timedelta(days=90))], NOW)
    assert [each.moment for each in due] == [datetime(2026, 11, 20, 2, tzinfo=UTC)]


def test_nothing_is_due_twice() -> None:
    due, next_look = due_now([item(1, datetime(2026, 11, 20, 2, tzinfo=UTC))], NOW)
    assert due == []
    assert next_look == start_of(datetime(2026, 11, 21, 2, tzinfo=UTC), f"{1:032x}", NIGHTLY.window)


def test_a_clock_that_was_set_back_makes_nothing_due() -> None:
    due, next_look = due_now([item(1, NOW + timedelta(days=3))], NOW)
    assert due == []
    assert next_look is not None
    assert next_look > NOW + timedelta(days=3)


def test_items_start_over_the_window_each_at_its_own_time() -> None:
    items = [item(number, datetime(2026, 11, 19, 2, tzinfo=UTC)) for number in range(200)]
    moment = datetime(2026, 11, 20, 2, tzinfo=UTC)
    counts = [len(due_now(items, moment + timedelta(minutes=minutes))[0]) for minutes in (-1, 0, 10, 20, 30)]
    assert counts[0] == 0
    assert counts[-1] == 200
    assert all(40 < b - a < 95 for a, b in pairwise(counts[1:])), counts


@given(
    st.integers(0, 40 * 24 * 60),
    st.integers(0, 20 * 24 * 60),
    st.sampled_from([0, 1, 30, 59]),
    st.sampled_from([1, 4, 12]),
)
def test_asked_every_minute_or_when_told_to_it_does_the_same(
    start_minutes: int, length_minutes: int, window_minutes: int, hours: int
) -> None:
    """Sleeping until the next look misses nothing, with windows nearly as long as the interval too."""
    policy = Policy("hours", Schedule.hourly(hours), window=timedelta(minutes=window_minutes))
    begin = NOW + timedelta(minutes=start_minutes)
    end = begin + timedelta(minutes=min(length_minutes, 3000))
    first = item(7, begin, policy)
    slept: list[datetime] = []
    now, known = begin, first
    while now <= end:
        due, look = due_now([known], now)
        if due:
            slept.append(due[0].moment)
            known = replace(known, handled=due[0].moment)
            continue
        assert look is not None
        assert look > now
        now = look
    offset = start_of(NOW, first.item_id, policy.window) - NOW
    expected = [moment for moment in _until(policy.schedule, begin, end) if moment + offset <= end]
    assert slept == expected


def _until(schedule: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    found = []
    for moment in schedule.after(begin):
        if moment > end:
            return found
        found.append(moment)
    return found


def backup(
    number: int, vault: str = "a", *, trigger: Trigger = Trigger.SCHEDULE, item_number: int | None = None
) -> Job:
    made = phases.backup_job(
        vault=vault,
        vault_id=VaultId(vault),
        item_id=ItemId(str(item_number or number)),
        item="x",
        trigger=trigger,
        now=NOW,
    )
    return replace(made, id=f"j-{number:08d}")


def captured(job: Job) -> Job:
    return phases.captured(phases.begin(job, PhaseName.CAPTURE, NOW), 1, [], NOW)


def names(jobs: list[Job], budgets: Budgets, **more: dict[str, datetime]) -> list[str]:
    return [f"{job.id[-2:]} {phase.name}" for job, phase in to_start(jobs, budgets, NOW, **more)[0]]


def test_budgets_hold_with_what_runs_already() -> None:
    running = [phases.begin(backup(1), PhaseName.CAPTURE, NOW)]
    waiting = [backup(2), backup(3), captured(backup(4)), captured(backup(5))]
    assert names([*running, *waiting], Budgets(captures=2, transfers=1)) == ["02 capture", "04 transfer"]
    assert names([*running, *waiting], Budgets(captures=1, transfers=0)) == []


def test_an_item_has_one_capture_and_one_transfer_at_a_time() -> None:
    first, second = backup(1, item_number=9), backup(2, item_number=9)
    assert names([first, second], Budgets(captures=5)) == ["01 capture"]
    moving = phases.begin(captured(first), PhaseName.TRANSFER, NOW)
    assert names([moving, second], Budgets(captures=5, transfers=5)) == ["02 capture"], "the phases overlap"


def test_on_demand_goes_first_and_then_who_has_waited_longest() -> None:
    jobs = [backup(1), backup(2), backup(3, trigger=Trigger.ON_DEMAND)]
    assert names(jobs, Budgets(captures=2)) == ["03 capture", "01 capture"]


def test_a_vault_with_a_thousand_items_does_not_keep_another_waiting() -> None:
    jobs = [captured(backup(number, "big")) for number in range(1, 1000)] + [captured(backup(1000, "small"))]
    jobs[-1] = replace(jobs[-1], id="j-zzzzzzzz")
    chosen, _ = to_start(jobs, Budgets(transfers=2), NOW)
    assert [job.vault for job, _ in chosen] == ["big", "small"]
    served = {"big": NOW - HOUR, "small": NOW - 2 * HOUR}
    assert [job.vault for job, _ in to_start(jobs, Budgets(transfers=1), NOW, served)[0]] == ["small"]


def test_what_is_held_back_waits_and_says_until_when() -> None:
    running = phases.begin(captured(backup(1)), PhaseName.TRANSFER, NOW - HOUR)
    held = phases.fail(running, PhaseName.TRANSFER, Problem("store.failed", "x"), NOW - timedelta(seconds=1), retries=3)
    chosen, look = to_start([held], Budgets(), NOW)
    assert chosen == []
    assert held.current is not None
    assert look == held.current.not_before
    assert held.current.state is PhaseState.WAITING
    assert len(to_start([held], Budgets(), look)[0]) == 1
