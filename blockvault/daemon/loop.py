"""A tick of the daemon: what is due becomes jobs, what waits is started, what has ended is taken in.

The loop has no state of its own that matters: schedules stand in the vaults, what was handled and what is to be done
in the journal. So a daemon that was killed goes on where it was, and one that is asked every second does the same as
one that sleeps until something is due.

Invariants:
- A moment of a schedule makes one job at most, however often and by however many it is looked at (the journal decides).
- An item whose backup of an earlier moment has not been captured yet gets no second job: the newest moment is made up
  for when that capture has ended.
- A tick never waits for work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from blockvault.ids import ItemId, VaultId
from blockvault.jobs import phases, planning
from blockvault.jobs.planning import Budgets, Scheduled
from blockvault.jobs.work import recover
from blockvault.model.job import GROUP, Job, Operation, Phase, PhaseName, PhaseState, Trigger
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.store.journal import Handled

if TYPE_CHECKING:
    from collections.abc import Callable

    from blockvault.daemon.vaults import Vaults, VaultView
    from blockvault.store.journal import Journal


AHEAD_MOST = timedelta(days=2)


class Workers(Protocol):
    """Carry out phases beside the loop."""

    def start(self, job: Job, phase: Phase) -> None:
        """Begin a phase; returns at once."""

    def ended(self) -> int:
        """How many phases have ended since the last call."""

    def running(self) -> set[tuple[str, PhaseName]]:
        """The phases at work, by their job's id: also such as the journal does not show as running yet."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the loop goes by.

    Args:
        budgets: how much runs at the same time.
        zone: IANA name of the zone of `upkeep_hour`.
        upkeep_hour: hour of the day after which points are expired, space is freed and blocks are verified.
        verify: whether a part of each vault is verified every day.
        history_days: for how long ended jobs are remembered.
        look: how often vaults are looked at and the clock is checked, when nobody says that something changed.
    """

    budgets: Budgets = field(default_factory=Budgets)
    zone: str = "UTC"
    upkeep_hour: int = 12
    verify: bool = True
    history_days: int = 400
    look: timedelta = timedelta(minutes=1)


class Daemon:
    """The loop.

    Args:
        journal: of the host.
        vaults: what there is to protect.
        workers: who does the work.
        clock: the moment, in UTC.
        settings: see `LoopSettings`.
    """

    def __init__(
        self,
        journal: Journal,
        vaults: Vaults,
        workers: Workers,
        clock: Callable[[], datetime],
        settings: LoopSettings | None = None,
    ) -> None:
        self._journal = journal
        self._vaults = vaults
        self._workers = workers
        self._clock = clock
        self._settings = settings or LoopSettings()
        self._served: dict[str, datetime] = {}
        self._ticked: datetime | None = None  # when the last tick was
        self._quiet: dict[str, tuple[VaultView, datetime]] = {}  # by vault: until when nothing is due in it
        upkeep = Schedule.daily(f"{self._settings.upkeep_hour:02}:00", zone=self._settings.zone)
        self._upkeep = Policy("upkeep", upkeep, window=timedelta(hours=1))
        self.views: list[VaultView] = []
        self.notes: list[str] = []  # what people should be told; whoever tells it takes it out

    def tick(self) -> datetime:
        """Do what is to be done now, and say when to look again at the latest."""
        now = self._clock()
        if self._workers.ended() or self._ticked is None:
            recover(self._journal, now)
            self._quiet.clear()  # an item whose capture has ended may be due again
        if self._ticked is not None and now < self._ticked:
            self._quiet.clear()  # the clock was set back
        self._ticked = now
        self.views = self._vaults.look()
        looks: list[datetime | None] = [now + self._settings.look, self._plan(now), self._start(now)]
        return min(look for look in looks if look is not None)

    def _plan(self, now: datetime) -> datetime | None:
        """Make jobs of what is due in all vaults; returns when something is due next."""
        quiet: dict[str, tuple[VaultView, datetime]] = {}
        for view in self.views:
            known = self._quiet.get(view.vault_id)
            if known is not None and known[0] is view and now < known[1]:
                quiet[view.vault_id] = known  # of a thousand items none is due before then
                continue
            looks = [look for look in (self._schedule(view, now), self._keep_up(view, now)) if look is not None]
            if looks:
                quiet[view.vault_id] = (view, min(looks))
        self._quiet = quiet
        return min((until for _, until in quiet.values()), default=None)

    # --- making jobs -------------------------------------------------------------------------------------------

    def _schedule(self, view: VaultView, now: datetime) -> datetime | None:
        """Make jobs of what is due; returns when something is due next."""
        known = self._known(view, now)
        # What lies before the protection began, or before it was stopped and resumed, is not made up for.
        scheduled = []
        for item in view.items:
            begun = min(item.since, now)
            handled = max(begun, known.get(item.item_id, begun))
            scheduled.append(Scheduled(item.item_id, item.item, item.policy, handled, item.group))
        due, next_look = planning.due_now(scheduled, now)
        for each in due:
            wanted = each.scheduled
            if any(_not_captured(job) for job in self._journal.open_jobs(wanted.item_id)):
                continue
            job = phases.backup_job(
                vault=view.name,
                vault_id=VaultId(view.vault_id),
                item_id=wanted.item_id,
                item=wanted.item,
                trigger=Trigger.SCHEDULE,
                now=now,
                moment=each.moment,
                retries=wanted.policy.retries,
                details={GROUP: wanted.spread} if wanted.spread else None,
            )
            self._journal.add(job, handled=Handled(view.vault_id, wanted.item_id, each.moment))
        return next_look

    def _keep_up(self, view: VaultView, now: datetime) -> datetime | None:
        """Once a day: expire and free, then verify a part; returns when that is due next."""
        operations = [Operation.PRUNE, *([Operation.VERIFY] if self._settings.verify else [])]
        handled = self._handled(view, [ItemId(operation) for operation in operations], now)
        # The spread is by the vault: what is named `prune` there would be the same for all.
        scheduled = [Scheduled(ItemId(view.vault_id), "", self._upkeep, min(handled.values()))]
        due, next_look = planning.due_now(scheduled, now)
        for each in due:
            for operation in operations:
                job = Job(
                    id="",
                    operation=operation,
                    trigger=Trigger.SCHEDULE,
                    vault=view.name,
                    vault_id=VaultId(view.vault_id),
                    item_id=ItemId(""),
                    item="",
                    created=now,
                    phases=(Phase(PhaseName.RUN),),
                    moment=each.moment,
                )
                self._journal.add(job, handled=Handled(view.vault_id, operation, each.moment))
            self._journal.trim(now - timedelta(days=self._settings.history_days))
        return next_look

    def _handled(self, view: VaultView, ids: list[ItemId], now: datetime) -> dict[ItemId, datetime]:
        """The newest handled moment of each; what is seen for the first time begins now."""
        known = self._known(view, now)
        new = [each for each in ids if each not in known]
        if new:
            self._journal.set_handled([Handled(view.vault_id, each, now) for each in new])
        return {each: known.get(each, now) for each in ids}

    def _known(self, view: VaultView, now: datetime) -> dict[str, datetime]:
        """The newest handled moment of each item that has one.

        A clock that ran ahead handled moments that are still to come. Small steps back pass by themselves; after a
        large one nothing would be taken until the clock has come there again, perhaps for a year: it begins anew.
        """
        known = self._journal.handled(view.vault_id)
        ahead = [each for each, moment in known.items() if moment - now > AHEAD_MOST]
        if ahead:
            self._journal.set_handled([Handled(view.vault_id, each, now) for each in ahead])
            self.notes.append(
                f"vault '{view.name}': the clock was set back by more than {AHEAD_MOST.days} days; "
                f"{len(ahead)} schedules begin anew from now"
            )
            known.update(dict.fromkeys(ahead, now))
        return known

    # --- starting them -----------------------------------------------------------------------------------------

    def _start(self, now: datetime) -> datetime | None:
        """Start what may start; returns when a phase that is held back may."""
        running = self._workers.running()
        jobs = [_as_running(job, running) for job in self._journal.open_jobs()]
        chosen, next_look = planning.to_start(jobs, self._settings.budgets, now, self._served)
        for job, phase in chosen:
            if phase.name is PhaseName.TRANSFER:
                self._served[job.vault_id] = now
            self._workers.start(job, phase)
        return next_look


def _not_captured(job: Job) -> bool:
    phase = job.current
    return phase is not None and phase.name is PhaseName.CAPTURE


def _as_running(job: Job, running: set[tuple[str, PhaseName]]) -> Job:
    """The job with a phase shown as running that was just given to a worker."""
    phase = job.current
    if phase is None or (job.id, phase.name) not in running:
        return job
    shown = replace(phase, state=PhaseState.IN_PROGRESS)
    return replace(job, phases=tuple(shown if each is phase else each for each in job.phases))
