"""The state table of jobs, and every step that leads through it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import pytest

from blockvault.ids import ItemId, VaultId
from blockvault.jobs import phases
from blockvault.jobs.phases import JobStateError
from blockvault.model.job import Job, JobState, Phase, PhaseName, PhaseState, Problem, Trigger

NOW = datetime(2026, 11, 20, 2, tzinfo=UTC)
CAPTURE, TRANSFER = PhaseName.CAPTURE, PhaseName.TRANSFER
PASSING = Problem("store.no-space", "no space left")


def job(trigger: Trigger = Trigger.SCHEDULE, name: str = "j-00000001", retries: int = 3) -> Job:
    made = phases.backup_job(
        vault="default",
        vault_id=VaultId("v"),
        item_id=ItemId("i"),
        item="web01",
        trigger=trigger,
        now=NOW,
        retries=retries,
    )
    return replace(made, id=name)


def state(capture: PhaseState, transfer: PhaseState, *, warned: bool = False) -> JobState:
    warnings = (Problem("x", "y"),) if warned else ()
    return replace(job(), phases=(Phase(CAPTURE, capture), Phase(TRANSFER, transfer)), warnings=warnings).state


def test_the_state_table() -> None:
    P, J = PhaseState, JobState
    assert state(P.COMPLETED, P.IN_PROGRESS) is J.IN_PROGRESS
    assert state(P.COMPLETED, P.SKIPPED) is J.COMPLETED
    assert state(P.COMPLETED, P.COMPLETED) is J.COMPLETED
    assert state(P.COMPLETED, P.FAILED) is J.COMPLETED_WITH_WARNING
    assert state(P.FAILED, P.SKIPPED) is J.FAILED
    assert state(P.COMPLETED, P.CANCELLED) is J.CANCELLED
    assert state(P.CANCELLED, P.SKIPPED) is J.CANCELLED
    assert state(P.WAITING, P.WAITING) is J.IN_PROGRESS
    assert state(P.SKIPPED, P.FAILED) is J.FAILED, "no snapshot was kept: nothing restores"
    assert state(P.COMPLETED, P.COMPLETED, warned=True) is J.COMPLETED_WITH_WARNING
    assert state(P.FAILED, P.SKIPPED, warned=True) is J.FAILED


def test_every_pair_of_phases_has_a_state_and_only_what_can_go_on_is_open() -> None:
    for capture, transfer in product(PhaseState, PhaseState):
        ended = {PhaseState.COMPLETED, PhaseState.FAILED, PhaseState.CANCELLED, PhaseState.SKIPPED}
        found = state(capture, transfer)
        if {capture, transfer} <= ended:
            assert found is not JobState.IN_PROGRESS
        elif not {capture, transfer} & {PhaseState.FAILED, PhaseState.CANCELLED}:
            assert found is JobState.IN_PROGRESS


def captured(made: Job, others: list[Job] | None = None) -> Job:
    return phases.captured(phases.begin(made, CAPTURE, NOW), 7, others or [], NOW)


def test_a_backup_goes_through_both_phases() -> None:
    made = captured(job())
    assert (made.number, made.state, made.ended) == (7, JobState.IN_PROGRESS, None)
    made = phases.begin(made, TRANSFER, NOW + timedelta(minutes=1))
    made = phases.complete(made, TRANSFER, NOW + timedelta(minutes=2))
    assert (made.state, made.ended) == (JobState.COMPLETED, NOW + timedelta(minutes=2))
    assert made.current is None


def test_no_phase_begins_out_of_its_turn() -> None:
    with pytest.raises(JobStateError):
        phases.begin(job(), TRANSFER, NOW)
    running = phases.begin(job(), CAPTURE, NOW)
    with pytest.raises(JobStateError):
        phases.begin(running, CAPTURE, NOW)
    with pytest.raises(JobStateError):
        phases.complete(job(), CAPTURE, NOW)


@pytest.mark.parametrize("older", ["waiting", "running", "held back"])
def test_while_a_transfer_is_outstanding_the_next_is_skipped(older: str) -> None:
    first = captured(job())
    if older != "waiting":
        first = phases.begin(first, TRANSFER, NOW)
    if older == "held back":
        first = phases.fail(first, TRANSFER, PASSING, NOW, retries=3)
        assert first.current is not None
        assert first.current.not_before is not None
    second = captured(job(name="j-00000002"), [first])
    assert second.state is JobState.COMPLETED
    transfer = second.phase(TRANSFER)
    assert transfer is not None
    assert transfer.state is PhaseState.SKIPPED
    assert transfer.problem is not None
    assert first.id in transfer.problem.message


def test_an_ended_or_not_yet_captured_job_skips_no_transfer() -> None:
    done = phases.complete(phases.begin(captured(job()), TRANSFER, NOW), TRANSFER, NOW)
    assert captured(job(name="j-00000002"), [done, job(name="j-00000003")]).state is JobState.IN_PROGRESS


def test_a_job_on_demand_is_never_skipped() -> None:
    made = captured(job(Trigger.ON_DEMAND, "j-00000002"), [captured(job())])
    assert made.current is not None
    assert made.current.name is TRANSFER


def test_what_can_pass_is_tried_again_later_and_later_and_then_has_failed() -> None:
    made = captured(job(retries=3))
    waits = []
    now = NOW
    for _ in range(3):
        made = phases.fail(phases.begin(made, TRANSFER, now), TRANSFER, PASSING, now, retries=3)
        phase = made.current
        assert phase is not None
        assert phase.not_before is not None
        waits.append(phase.not_before - now)
        now = phase.not_before
    assert waits[0] >= phases.RETRY_FIRST
    assert all(2 * a * 4 / 5 <= b <= 2 * a * 5 / 4 for a, b in pairwise(waits)), waits
    made = phases.fail(phases.begin(made, TRANSFER, now), TRANSFER, PASSING, now, retries=3)
    assert made.state is JobState.COMPLETED_WITH_WARNING
    assert made.ended == now


def test_the_wait_for_another_try_has_an_end() -> None:
    made = captured(job())
    for _ in range(20):
        made = phases.fail(phases.begin(made, TRANSFER, NOW), TRANSFER, PASSING, NOW, retries=100)
        phase = made.current
        assert phase is not None
        assert phase.not_before is not None
        assert phase.not_before - NOW <= phases.RETRY_LIMIT * 5 / 4


def test_a_failed_capture_leaves_no_transfer_to_do() -> None:
    made = phases.fail(phases.begin(job(), CAPTURE, NOW), CAPTURE, PASSING, NOW, retries=0)
    assert made.state is JobState.FAILED
    assert [phase.state for phase in made.phases] == [PhaseState.FAILED, PhaseState.SKIPPED]


def test_cancelling() -> None:
    waiting = phases.ask_to_cancel(job(), NOW)
    assert waiting.state is JobState.CANCELLED
    running = phases.ask_to_cancel(phases.begin(captured(job()), TRANSFER, NOW), NOW)
    assert running.state is JobState.IN_PROGRESS, "it ends when its process sees it"
    assert running.cancel_asked == NOW
    ended = phases.cancelled(running, TRANSFER, NOW)
    assert (ended.state, ended.number) == (JobState.CANCELLED, 7)
    assert ended.phases[0].state is PhaseState.COMPLETED, "the snapshot stays"
    with pytest.raises(JobStateError, match="has ended already"):
        phases.ask_to_cancel(ended, NOW)
    with pytest.raises(JobStateError):
        phases.complete(ended, TRANSFER, NOW)


def test_a_phase_whose_process_died_waits_again_but_not_for_ever() -> None:
    made = captured(job())
    for _ in range(phases.INTERRUPTIONS_MAX - 1):
        made = phases.interrupted(phases.begin(made, TRANSFER, NOW), TRANSFER, NOW)
        assert made.is_open
    made = phases.interrupted(phases.begin(made, TRANSFER, NOW), TRANSFER, NOW)
    assert made.state is JobState.COMPLETED_WITH_WARNING


def test_a_phase_that_was_stopped_in_good_order_has_lost_no_try() -> None:
    made = captured(job())
    for _ in range(50):
        made = phases.released(phases.begin(made, TRANSFER, NOW), TRANSFER, NOW)
    assert made.current is not None
    assert made.current.tries == 0


def test_a_point_that_went_to_the_vault_at_once() -> None:
    warning = Problem("snapshot.no-room", "no snapshot is kept")
    made = phases.went_at_once(phases.begin(job(), CAPTURE, NOW), 9, NOW, [warning])
    assert (made.state, made.number) == (JobState.COMPLETED_WITH_WARNING, 9)
    assert [phase.state for phase in made.phases] == [PhaseState.SKIPPED, PhaseState.COMPLETED]
