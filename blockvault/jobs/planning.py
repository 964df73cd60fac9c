"""Which moments of schedules are due, and which waiting phases may start now: pure functions of what is known.

Invariants:
- However many moments an item missed, one job makes up for all of them.
- An item has one capture at a time and one transfer at a time; a second waits.
- The queue is fair: a job on demand goes first, then whoever has waited longest, and among transfers the vault that
  was served least of late, so a vault with a thousand items does not keep another waiting for the night.
- Nothing is started beyond the budgets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.errors import InternalError
from blockvault.model.job import GROUP, Job, Phase, PhaseName, PhaseState, Trigger
from blockvault.policy.schedule import start_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from blockvault.ids import ItemId
    from blockvault.policy.policies import Policy


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A protected item, its policy, and the newest moment of its schedule that was handled."""

    item_id: ItemId
    item: str
    policy: Policy
    handled: datetime
    spread: str = ""  # what its part of the window goes by: its own id, or its group, whose items start together


@dataclass(frozen=True, slots=True)
class Due:
    """An item that is to be backed up now, and the moment that this makes up for."""

    scheduled: Scheduled
    moment: datetime


@dataclass(frozen=True, slots=True)
class Budgets:
    """How many phases may run at the same time."""

    captures: int = 2
    transfers: int = 1
    others: int = 1

    def of(self, name: PhaseName) -> int:
        """The budget of a phase of that name."""
        match name:
            case PhaseName.CAPTURE:
                return self.captures
            case PhaseName.TRANSFER:
                return self.transfers
            case PhaseName.RUN:
                return self.others
        raise InternalError("job.phase", f"no budget for {name}")


def due_now(items: Iterable[Scheduled], now: datetime) -> tuple[list[Due], datetime | None]:
    """What is due at `now`, and when something will be due next.

    An item starts at its own part of the policy's window, the same behind every moment. Where the clock was set back
    behind the handled moment nothing is due until it has come there again.

    Returns:
        the items that are due, in the order of their starts; the next moment to look at; None: there is none.
    """
    due: list[tuple[datetime, Due]] = []
    next_look: datetime | None = None
    for each in items:
        schedule = each.policy.schedule
        behind = start_of(now, each.spread or each.item_id, each.policy.window) - now
        moment = schedule.due(each.handled, now - behind)
        if moment is not None:
            due.append((moment + behind, Due(each, moment)))
        coming = schedule.next_after(max(each.handled, now - behind))
        if coming is not None:
            next_look = coming + behind if next_look is None else min(next_look, coming + behind)
    due.sort(key=lambda pair: (pair[0], pair[1].scheduled.item_id))
    return [each for _, each in due], next_look


def to_start(
    jobs: Sequence[Job], budgets: Budgets, now: datetime, served: Mapping[str, datetime] | None = None
) -> tuple[list[tuple[Job, Phase]], datetime | None]:
    """The waiting phases that start now, in order, and when one that is held back may start next.

    Args:
        jobs: all open jobs.
        budgets: how many may run.
        now: the moment.
        served: when a transfer of each vault was started last, by the vault's id.
    """
    served = served or {}
    count: Counter[PhaseName] = Counter()
    busy: set[tuple[str, PhaseName]] = set()
    in_turn: Counter[str] = Counter()  # transfers of each vault that run, and those that wait in front of one
    waiting: list[tuple[Job, Phase]] = []
    next_look: datetime | None = None
    for job in jobs:
        phase = job.current
        if phase is None:
            continue
        if phase.state is PhaseState.IN_PROGRESS:
            count[phase.name] += 1
            busy.add(_place(job, phase))
            in_turn[job.vault_id] += phase.name is PhaseName.TRANSFER
        elif phase.not_before is not None and phase.not_before > now:
            next_look = phase.not_before if next_look is None else min(next_look, phase.not_before)
        else:
            waiting.append((job, phase))
    waiting.sort(key=lambda pair: (pair[0].trigger is not Trigger.ON_DEMAND, pair[0].id))
    queue: list[tuple[tuple[bool, int, float, str], Job, Phase]] = []
    for job, phase in waiting:
        turn, last = 0, 0.0
        if phase.name is PhaseName.TRANSFER:
            turn, last = in_turn[job.vault_id], served[job.vault_id].timestamp() if job.vault_id in served else 0.0
            in_turn[job.vault_id] += 1
        queue.append(((job.trigger is not Trigger.ON_DEMAND, turn, last, job.id), job, phase))
    queue.sort(key=lambda entry: entry[0])
    chosen: list[tuple[Job, Phase]] = []
    for _, job, phase in queue:
        place = _place(job, phase)
        if count[phase.name] < budgets.of(phase.name) and place not in busy:
            count[phase.name] += 1
            busy.add(place)
            chosen.append((job, phase))
    return chosen, next_look


def _place(job: Job, phase: Phase) -> tuple[str, PhaseName]:
    """What two phases cannot be at work on at the same time. The items of a group are captured by one process."""
    group = job.details.get(GROUP)
    if group and phase.name is PhaseName.CAPTURE:
        return f"group {job.vault_id}/{group}", phase.name
    return job.item_id or job.vault_id, phase.name
