"""A made world for reports: vaults, items and jobs as plain rows, the same every time."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from blockvault.ids import ItemId, OriginId, VaultId
from blockvault.jobs import phases
from blockvault.model import PointRef, PointStatistics, Protection
from blockvault.model.job import Job, Operation, Phase, PhaseName, Problem, Trigger
from blockvault.policy import RetentionRules
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule, start_of
from blockvault.reports.capacity import Sample
from blockvault.reports.facts import ItemFacts, PointFacts, VaultFacts

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ORIGIN = OriginId("a" * 32)
VAULT_ID = "7" * 32
NIGHTLY = Policy(
    "nightly", Schedule.daily("02:00", zone="UTC"), RetentionRules(keep_daily=30), window=timedelta(minutes=30)
)
WEEKLY = Policy("weekly", Schedule.weekly([Weekday.SUNDAY, Weekday.WEDNESDAY], "02:00", zone="UTC"))
HOURLY = Policy("hourly", Schedule.hourly(4), RetentionRules(keep_last=40))
# A name as whoever wrote the vault's records may have chosen it.
HOSTILE = '=cmd|"</td><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u202egnp.exe\x1b[2J\x00\udcff'


def ident(name: str) -> str:
    """The id of the item of that name."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def point(number: int, taken: datetime, **fields: object) -> PointFacts:
    """A point of 10 GiB that stored 64 MiB, unless said otherwise."""
    known: dict[str, object] = {"size_bytes": 10 << 30, "changed_bytes": 128 << 20, "stored_bytes": 64 << 20, **fields}
    return PointFacts(PointRef(ORIGIN, number), number, taken, **known)  # type: ignore[arg-type]


def item(
    name: str, policy: Policy | None = NIGHTLY, points: tuple[PointFacts, ...] = (), **fields: object
) -> ItemFacts:
    """A protected item that was registered long ago."""
    known: dict[str, object] = {
        "since": NOW - 400 * DAY,
        "protection": Protection.PROTECTED if policy is not None else Protection.NONE,
        **fields,
    }
    return ItemFacts("site", VAULT_ID, ident(name), name, policy=policy, points=points, **known)  # type: ignore[arg-type]


def vault(*items: ItemFacts, **fields: object) -> VaultFacts:
    """A vault of 60 GiB on a disk with 200 GiB left."""
    known: dict[str, object] = {
        "stored_bytes": 60 << 30,
        "pack_bytes": 59 << 30,
        "snapshot_bytes": 3 << 30,
        "free_bytes": 200 << 30,
        "disk_bytes": 400 << 30,
        "soft_delete_days": 14,
        **fields,
    }
    return VaultFacts("site", VAULT_ID, "/srv/site", tuple(items), **known)  # type: ignore[arg-type]


def backup(
    name: str,
    moment: datetime,
    *,
    number: int = 1,
    policy: Policy = NIGHTLY,
    late: timedelta = timedelta(),
    ends: str = "completed",
    trigger: Trigger = Trigger.SCHEDULE,
    seconds: int = 60,
) -> Job:
    """A job as its phases made it: `ends` is completed, warned, failed, untransferred, open or cancelled."""
    began = start_of(moment, ident(name), policy.window) + late
    job = phases.backup_job(
        vault="site",
        vault_id=VaultId(VAULT_ID),
        item_id=ItemId(ident(name)),
        item=name,
        trigger=trigger,
        now=began,
        moment=moment if trigger is Trigger.SCHEDULE else None,
    )
    job = phases.begin(job, PhaseName.CAPTURE, began)
    if ends == "failed":
        return phases.fail(job, PhaseName.CAPTURE, Problem("image.gone", "it is gone"), began, retries=0)
    if ends == "open":
        return job
    captured = began + timedelta(milliseconds=400)
    warned = [Problem("hook.failed", "a script failed")] if ends == "warned" else []
    job = phases.captured(job, number, [], captured, warned)
    if ends == "untransferred":
        return phases.skip(job, PhaseName.TRANSFER, captured)
    if ends == "cancelled":
        return phases.cancelled(job, PhaseName.TRANSFER, captured)
    job = phases.begin(job, PhaseName.TRANSFER, captured)
    job = phases.complete(job, PhaseName.TRANSFER, captured + timedelta(seconds=seconds))
    return replace_statistics(job, PointStatistics(10 << 30, 128 << 20, 100 << 20, 64 << 20, 66 << 20, 2048))


def replace_statistics(job: Job, statistics: PointStatistics) -> Job:
    """The job with figures."""
    return replace(job, statistics=statistics)


def restored(name: str, at: datetime, *, well: bool = True) -> Job:
    """A restore that has ended."""
    job = Job("", Operation.RESTORE, Trigger.ON_DEMAND, "site", VaultId(VAULT_ID), ItemId(ident(name)), name, at,
              (Phase(PhaseName.RUN),))  # fmt: skip
    job = phases.begin(job, PhaseName.RUN, at)
    if well:
        return phases.complete(job, PhaseName.RUN, at + timedelta(seconds=90))
    return phases.fail(job, PhaseName.RUN, Problem("store.no-space", "full"), at, retries=0)


def world(count: int = 4, days: int = 30, seed: int = 7) -> tuple[list[VaultFacts], list[Job], list[Sample]]:
    """So many items over so many days, with all that can go wrong, as a seed has it."""
    chance = random.Random(seed)
    items, jobs = [], []
    names = ["web01", HOSTILE, "db", "files"] + [f"vm-{number:04}" for number in range(4, count)]
    for name in names[:count]:
        points = []
        for back in range(days, -1, -1):
            moment = (NOW - back * DAY).replace(hour=2)
            kind = chance.random()
            number = days - back + 1
            if kind < 0.05:
                continue  # the host was down
            late = timedelta(hours=5) if kind > 0.9 else timedelta()
            ends = "failed" if kind < 0.1 else "warned" if kind < 0.15 else "completed"
            job = backup(name, moment, number=number, late=late, ends=ends, seconds=chance.randrange(20, 900))
            jobs.append(job)
            if ends != "failed":
                first = not points
                stored = (4 << 30) if first else chance.randrange(20 << 20, 90 << 20)
                taken = job.phases[0].started
                assert taken is not None
                points.append(point(number, taken, stored_bytes=stored, initial=first, has_snapshot=back < 2))
        items.append(item(name, points=tuple(points)))
    items.append(item("new", points=(), since=NOW - timedelta(hours=3)))
    items.append(item("by-hand", None, points=(point(900, NOW - 90 * DAY, initial=True),)))
    jobs += [restored(names[0], NOW - 3 * DAY), restored(names[0], NOW - 2 * DAY, well=False)]
    samples = [
        Sample(NOW - back * DAY, (60 << 30) - back * (300 << 20), (200 << 30) + back * (300 << 20))
        for back in range(40, -1, -1)
    ]
    broken = VaultFacts("away", "9" * 32, "/mnt/away", problem="/mnt/away is not there")
    return [broken, vault(*items)], jobs, samples
