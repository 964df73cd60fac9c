"""A host whose time is simulated: the real daemon's loop, the real engine, small real images, virtual durations.

    host = SimulatedHost(folder, start)
    host.protect(...)
    host.run_until(moment)

Phases begin when the daemon starts them and end when their virtual duration is over; the work itself is done by the
real `Worker` at the end of it; a capture takes no time, it is an instant of which the snapshot is. Between
two events nothing happens, so a year takes as long as its jobs do.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from blockvault.daemon.loop import Daemon, LoopSettings
from blockvault.daemon.vaults import Vaults
from blockvault.jobs.planning import Budgets
from blockvault.jobs.work import Worker, WorkSettings
from blockvault.model.job import Job, Phase, PhaseName
from blockvault.policy.policies import Policy
from blockvault.store.journal import Journal
from blockvault.store.locks import NumberLock
from blockvault.vault import Vault
from helpers.files import real_image

CHUNK = 16_384
PAGE = 4096


@dataclass
class AtWork:
    """A phase that was begun, and when its virtual duration is over."""

    job: Job
    name: PhaseName
    ends: datetime
    lock: NumberLock


@dataclass
class Captured:
    """What an image held when a point of it was taken."""

    item: str
    number: int
    taken: datetime
    digest: str


class SimulatedHost:
    """One host with one vault, a daemon and a clock that the test moves.

    Args:
        folder: for state and images.
        start: where the clock begins; it must not lie behind the real one by much, or leases look old.
        budgets: of the daemon.
        change: called before each capture with the image of the item; what it writes is that day's churn.
    """

    def __init__(
        self,
        folder: Path,
        start: datetime,
        *,
        budgets: Budgets | None = None,
        upkeep_hour: int = 12,
        verify: bool = False,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.now = start
        self.settings = LoopSettings(
            budgets=budgets or Budgets(captures=4, transfers=4, others=2),
            upkeep_hour=upkeep_hour,
            verify=verify,
            look=timedelta(days=1),
        )
        self.images: dict[str, list[Path]] = {}
        self.captured: list[Captured] = []
        self.duration: Callable[[Job, Phase], timedelta] = lambda _job, _phase: timedelta(seconds=10)
        self.trouble: Callable[[Job, PhaseName], None] = lambda _job, _name: None
        self.jobs_ended: list[Job] = []
        self._at_work: list[AtWork] = []
        self._ended = 0
        self._vault: Vault | None = Vault.create(state_dir=str(self.state), chunk_size=CHUNK, now=start)
        self._start_daemon()

    # --- the host ----------------------------------------------------------------------------------------------

    def _start_daemon(self) -> None:
        self.journal = Journal(str(self.state))
        self.worker = Worker(
            self.journal,
            str(self.state),
            lambda _job: self.opened(""),
            lambda: self.now,
            WorkSettings(verify_budget=timedelta(seconds=1)),
            watched=False,
        )
        self.daemon = Daemon(self.journal, Vaults(str(self.state), self.opened), self, lambda: self.now, self.settings)

    @property
    def vault(self) -> Vault:
        """The vault, opened if it is not."""
        if self._vault is None:
            self._vault = Vault.open(state_dir=str(self.state))
        return self._vault

    @contextlib.contextmanager
    def opened(self, _name: str) -> Iterator[Vault]:
        """The vault, for the daemon and its workers: one of a process (LMDB's rule)."""
        yield self.vault

    def kill(self) -> None:
        """The daemon and its workers are gone, as the machine's power: nothing is told to the journal."""
        for work in self._at_work:
            work.lock.release()
        self._at_work.clear()
        self._ended = 0
        self.journal.close()
        if self._vault is not None:
            self._vault.close()
            self._vault = None

    def boot(self) -> None:
        """The daemon begins anew."""
        self._start_daemon()

    def close(self) -> None:
        self.kill()

    # --- items -------------------------------------------------------------------------------------------------

    def add(self, name: str, disks: int = 1, size: int = 128 << 10) -> None:
        """A new item with images of real data, and no point yet."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        self.images[name] = [
            real_image(folder / f"vd{'abcdef'[disk]}.img", size, seed=disk + 1) for disk in range(disks)
        ]
        items = self.vault._items
        items.register(items.find([str(path) for path in self.images[name]], name, self.now)[0], name)

    def protect(self, policy: Policy, *items: str) -> None:
        """A policy, if it is not there yet, and items that it protects from now on."""
        if all(each.name != policy.name for each in self.vault.policies()):
            self.vault.create_policy(policy, now=self.now)
        self.vault.assign_policy(list(items), policy.name, now=self.now)

    # --- the daemon's workers ----------------------------------------------------------------------------------

    def start(self, job: Job, phase: Phase) -> None:
        """See `daemon.loop.Workers`."""
        if phase.name is PhaseName.CAPTURE:
            self._write_churn(job)
        lock = self.worker.begin(job.id, phase.name)
        work = AtWork(job, phase.name, self.now + self.duration(job, phase), lock)
        self._at_work.append(work)
        if phase.name is PhaseName.CAPTURE:
            self._end(work)  # at this instant: the next tick sees it

    def ended(self) -> int:
        """See `daemon.loop.Workers`."""
        ended, self._ended = self._ended, 0
        return ended

    def running(self) -> set[tuple[str, PhaseName]]:
        """See `daemon.loop.Workers`."""
        return {(work.job.id, work.name) for work in self._at_work}

    def _write_churn(self, job: Job) -> None:
        """What the guest wrote since the last time: a page that says when, and others by the day."""
        stamp = f"{job.item} {self.now.isoformat()}".encode()
        for path in self.images[job.item]:
            seed = hashlib.sha256(stamp + path.name.encode()).digest()
            with path.open("r+b") as image:
                pages = path.stat().st_size // PAGE
                for each in range(3):
                    image.seek(int.from_bytes(seed[each * 4 : each * 4 + 4], "big") % pages * PAGE)
                    image.write(stamp + seed * 8)

    def _carry_out(self, work: AtWork) -> None:
        self.trouble(work.job, work.name)
        job = self.worker.carry_out(work.job.id, work.name)
        if work.name is PhaseName.CAPTURE and job.number is not None and work.job.number is None:
            self.captured.append(Captured(job.item, job.number, self.now, digest_of(self.images[job.item])))

    def _end(self, work: AtWork) -> None:
        self._carry_out(work)
        work.lock.release()
        self._at_work.remove(work)
        self._ended += 1
        job = self.journal.get(work.job.id)
        if not job.is_open:
            self.jobs_ended.append(job)

    # --- time --------------------------------------------------------------------------------------------------

    def run_until(self, moment: datetime) -> None:
        """Let the daemon work until then."""
        while True:
            for work in sorted(self._at_work, key=lambda work: (work.ends, work.job.id)):
                if work.ends <= self.now:
                    self._end(work)
            wake = self.daemon.tick()
            if self._ended:
                continue  # a capture was made within the tick: the daemon is woken by its worker's end
            coming = min([wake, *(work.ends for work in self._at_work)])
            if coming <= self.now:
                continue
            if coming > moment:
                self.now = max(self.now, moment)
                return
            self.now = coming

    # --- what must hold ----------------------------------------------------------------------------------------

    def check_restores(self, label: str, captured: Captured, *, source: str = "auto") -> None:
        """A point restores to what its images held."""
        target = self.folder / "restored"
        disks = len(self.images[captured.item])
        self.vault.restore(label, output=str(target), source=source)
        paths = [target] if disks == 1 else sorted(target.iterdir())
        assert digest_of(paths) == captured.digest, f"point {label} of {captured.item} is not what was captured"
        for path in paths:
            path.unlink()
        if disks > 1:
            target.rmdir()


def digest_of(paths: list[Path]) -> str:
    """SHA-256 over the images, in order."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()
