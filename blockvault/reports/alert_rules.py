"""When something is wrong: one pure function a rule, from what is known to findings.

    for rule in RULES: found += rule(known, settings)

Invariants:
- A rule reads no clock, no file and no vault: all that it goes by is in `Known`.
- What is not known is no finding, and no end of one: `can_judge` says whether the absence of a finding means anything.
- A rule names its trouble by ids, not names: an item that is renamed is not told again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

from blockvault.clock import age, to_text
from blockvault.config import DEFAULT_VAULT
from blockvault.model.alert import Finding, ItemFacts, Known, PointFigures, Sample, Severity, SpaceFacts, VaultFacts
from blockvault.units import GIB, MIB, format_size

if TYPE_CHECKING:
    from blockvault.config.settings import AlertSettings

SAMPLES_LEAST = 7  # days of history before a day is named on which a disk will be full
SAMPLES_USED = 45  # of what came before nobody knows whether it still tells
SOON_DAYS = 2  # full so soon is critical
FREE_SHARE_LEAST = 0.03
FREE_BYTES_LEAST = GIB

HISTORY_POINTS = 30
HISTORY_LEAST = 8  # points before an item has a history of its own
CHURN_MADS = 10.0  # how far above its median churn is unusual, in median deviations
CHURN_TIMES = 3.0  # and at least so many times the median
CHURN_BYTES_LEAST = 64 * MIB  # less harms little, and small numbers jump
CHURN_SHARE_LEAST = 0.02  # of the item's size; an item of 1 GiB has no 64 MiB to lose before it is late
RATIO_RANDOM = 0.97  # changed data that is stored in so much of its size was not compressed at all
RATIO_STEP = 0.2  # and its history's median lies so much lower
UNUSUAL_DAYS = 7  # for how long a point that was unusual is looked at again

SHORTENED_DAYS = 30
WAITING_LONG = timedelta(hours=1)
MISSED_TIMES_CRITICAL = 2.0  # of what the setting allows


# --- jobs ------------------------------------------------------------------------------------------------------------


def job_failed(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """The last job of its kind of an item, or of a vault, has failed."""
    seen = set()
    for job in known.jobs:
        subject = f"{job.item_id or job.vault_id}/{job.operation}"
        if subject in seen or job.state == "cancelled":
            continue
        seen.add(subject)
        if job.state != "failed":
            continue
        of = f"item '{job.item}'" if job.item else f"vault '{job.vault}'"
        message, why, do = job.problem or ("it ended without saying why", "", "")
        yield Finding(
            "job-failed",
            subject,
            Severity.WARNING,
            f"the {job.operation} of {of} failed: {message}",
            why or f"job {job.id} ended so at {_minute(job.ended)}",
            do or f"see `blockvault job show {job.id}`",
            vault=job.vault,
            vault_id=job.vault_id,
            item=job.item,
            item_id=job.item_id,
            since=job.ended,
        )


def job_warned(known: Known, settings: AlertSettings) -> Iterator[Finding]:
    """The last backups of an item were all completed with a warning."""
    rows: dict[str, list[str]] = {}
    for job in known.jobs:
        if job.operation != "backup" or job.state == "cancelled" or not job.item_id:
            continue
        row = rows.setdefault(job.item_id, [])
        if len(row) >= settings.warn_times or (row and row[-1] == ""):
            continue
        row.append(job.id if job.state == "completed-with-warning" else "")
        if len(row) < settings.warn_times or not all(row):
            continue
        newest = next(each for each in known.jobs if each.id == row[0])
        told = f": {newest.problem[0]}" if newest.problem else ""
        yield Finding(
            "job-warned",
            job.item_id,
            Severity.WARNING,
            f"the last {len(row)} backups of item '{job.item}' were completed with a warning{told}",
            f"the newest of them is job {newest.id}; what is warned of every time is easily overlooked",
            f"see `blockvault job show {newest.id}`, and mend the cause",
            vault=job.vault,
            vault_id=job.vault_id,
            item=job.item,
            item_id=job.item_id,
            since=job.ended,
        )


# --- points ----------------------------------------------------------------------------------------------------------


def rpo_missed(known: Known, settings: AlertSettings) -> Iterator[Finding]:
    """No good point of a protected item has come into the vault for too long, or there never was one."""
    for item in known.items:
        allowed = timedelta(seconds=item.interval_seconds * settings.rpo_factor)
        begin = max(item.known_since, item.last_good) if item.last_good else item.known_since
        late = known.now - begin
        if late <= allowed:
            continue
        much = item.last_good is None or late > MISSED_TIMES_CRITICAL * allowed
        if item.last_good is None:
            text = f"item '{item.item}' is protected and has no point in the vault"
            why = f"policy '{item.policy}' has protected it since {_minute(item.known_since)} at least"
        else:
            text = f"the newest good point of item '{item.item}' is {age(item.last_good, known.now)} old"
            every, after = _span(item.interval_seconds), _span(allowed.total_seconds())
            why = f"policy '{item.policy}' takes one every {every}; told after {after}"
        yield Finding(
            "rpo-missed",
            item.item_id,
            Severity.CRITICAL if much else Severity.WARNING,
            text,
            why,
            f"see `blockvault job list {item.item}`, then `blockvault snapshot {item.item}{_flag(item.vault)}`",
            vault=item.vault,
            vault_id=item.vault_id,
            item=item.item,
            item_id=item.item_id,
            since=begin + allowed,
        )


def unusual_churn(item: ItemFacts, now: datetime) -> Iterator[Finding]:
    """Points of an item that changed far more than is usual for it, or whose changed data stopped to compress.

    Both are what a guest looks like whose files are being encrypted by somebody else. Until it is acknowledged nothing
    of the item expires: the points from before may be all that is left.
    """
    for index, point in enumerate(item.points):
        if now - point.taken > timedelta(days=UNUSUAL_DAYS) or point.is_first:
            continue
        history = [before for before in item.points[:index] if not before.is_first][-HISTORY_POINTS:]
        if len(history) < HISTORY_LEAST:
            continue
        if point.changed_bytes < min(CHURN_BYTES_LEAST, CHURN_SHARE_LEAST * point.size_bytes):
            continue
        much = _far_above([float(before.changed_bytes) for before in history], float(point.changed_bytes))
        random = _random_all_at_once(history, point)
        if not much and not random:
            continue
        usual = median(before.changed_bytes for before in history)
        signs = []
        if much:
            signs.append(
                f"{format_size(point.changed_bytes)} changed, {format_size(usual)} is usual "
                f"(median of {len(history)} points)"
            )
        if random:
            before = median(_ratio(each) for each in history if each.unique_bytes)
            signs.append(
                f"what changed was stored in {100 * _ratio(point):.0f}% of its size, {100 * before:.0f}% is usual: it "
                f"looks encrypted"
            )
        what = "changed data that does not compress" if random else "unusually much churn"
        yield Finding(
            "unusual-churn",
            f"{item.item_id}/{point.number}",
            Severity.CRITICAL if random else Severity.WARNING,
            f"point {point.label} of item '{item.item}' has {what}; no point of the item expires meanwhile",
            "; ".join(signs),
            f"look into the guest; if all is well `blockvault alert ack` lets points expire again; "
            f"`blockvault diff {point.label}{_flag(item.vault)}` shows where it changed",
            vault=item.vault,
            vault_id=item.vault_id,
            item=item.item,
            item_id=item.item_id,
            since=point.taken,
            stays=True,
            holds_expiry=True,
        )


def _far_above(history: Sequence[float], value: float) -> bool:
    """Whether a value lies far above its history, by the median deviation; a history that never moves has none."""
    middle = median(history)
    deviation = max(1.4826 * median(abs(each - middle) for each in history), 0.05 * middle)
    return value > middle + CHURN_MADS * deviation and value > CHURN_TIMES * middle


def _random_all_at_once(history: Sequence[PointFigures], point: PointFigures) -> bool:
    """Whether new data hardly compresses, and that of the points before did."""
    if point.unique_bytes < min(CHURN_BYTES_LEAST, CHURN_SHARE_LEAST * point.size_bytes):
        return False
    ratios = [_ratio(before) for before in history if before.unique_bytes]
    return (
        len(ratios) >= HISTORY_LEAST
        and _ratio(point) >= RATIO_RANDOM
        and _ratio(point) - median(ratios) >= RATIO_STEP
    )  # fmt: skip


def _ratio(point: PointFigures) -> float:
    return point.stored_bytes / point.unique_bytes


def churn_unusual(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """What `unusual_churn` found at the last look at each vault."""
    yield from known.unusual


# --- vaults ----------------------------------------------------------------------------------------------------------


def vault_unreadable(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """A vault cannot be opened."""
    for vault in known.vaults:
        if vault.problem is None:
            continue
        message, why, do = vault.problem
        yield Finding(
            "vault-unreadable",
            vault.vault_id or vault.name,
            Severity.CRITICAL,
            f"vault '{vault.name}' cannot be read: {message}",
            why or f"its folder is {vault.path}",
            do or f"see `blockvault doctor{_flag(vault.name)}`",
            vault=vault.name,
            vault_id=vault.vault_id,
        )


def disk_filling(known: Known, settings: AlertSettings) -> Iterator[Finding]:
    """The file system of a vault, or of snapshots, is nearly full, or will be within the days that are set."""
    for vault in known.vaults:
        for space in vault.spaces:
            found = _filling(space, vault, known.now, settings)
            if found is not None:
                yield found


def _filling(space: SpaceFacts, vault: VaultFacts, now: datetime, settings: AlertSettings) -> Finding | None:
    share = space.free_bytes / space.total_bytes if space.total_bytes else 1.0
    is_low = share < FREE_SHARE_LEAST or space.free_bytes < min(FREE_BYTES_LEAST, 0.1 * space.total_bytes)
    full = full_on(space.samples, space.free_bytes, now.date())
    days = None if full is None else (full - now.date()).days
    if not is_low and (days is None or days > settings.free_days):
        return None
    free = f"{format_size(space.free_bytes)} of {format_size(space.total_bytes)} are free"
    if full is not None and days is not None:
        text = f"the disk of {space.what} will be full on {full.isoformat()}, in {days} day{'s' * (days != 1)}"
        why = f"{free}; at the pace of the last {min(len(space.samples), SAMPLES_USED)} days"
    else:
        text = f"the disk of {space.what} is nearly full: {free}"
        why = f"points cannot be written without free space; it is {space.path}"
    return Finding(
        "disk-filling",
        space.key,
        Severity.CRITICAL if is_low or (days is not None and days <= SOON_DAYS) else Severity.WARNING,
        text,
        why,
        f"free space there, keep less (`blockvault policy simulate`), or see `blockvault usage{_flag(vault.name)}`",
        vault=vault.name,
        vault_id=vault.vault_id,
    )


def full_on(samples: Sequence[Sample], free_bytes: int, today: date) -> date | None:
    """The day on which nothing is free any more, by the median slope of all pairs of days (Theil-Sen).

    One day on which much was written or deleted does not move it. None: there are too few days, or it does not fill.
    """
    used = [each for each in samples[-SAMPLES_USED:] if _is_same_size(each.total_bytes, samples[-1].total_bytes)]
    if len(used) < SAMPLES_LEAST:
        return None
    slopes = [
        (later.free_bytes - earlier.free_bytes) / (later.day - earlier.day).days
        for earlier, later in combinations(used, 2)
        if later.day > earlier.day
    ]
    slope = median(slopes) if len(slopes) >= SAMPLES_LEAST else 0.0
    if slope >= 0:
        return None
    days = int(free_bytes / -slope)
    return today + timedelta(days=days) if days < 36_500 else None


def _is_same_size(one: int, other: int) -> bool:
    """A disk that grew has no history yet; on some file systems the total wanders a little by itself."""
    return abs(one - other) <= 0.05 * other


def verify_stale(known: Known, settings: AlertSettings) -> Iterator[Finding]:
    """Bytes that points need have not been verified for too long."""
    for vault in known.vaults:
        if vault.looked is None or vault.created is None or not vault.point_count:
            continue
        if known.now - vault.created <= timedelta(days=settings.verify_stale_days):
            continue
        if vault.needed_bytes and vault.verified_bytes >= vault.needed_bytes:
            continue
        done = 100 * vault.verified_bytes // vault.needed_bytes if vault.needed_bytes else 0
        yield Finding(
            "verify-stale",
            vault.vault_id,
            Severity.WARNING,
            f"vault '{vault.name}': {done}% of what points need was verified in the last "
            f"{settings.verify_stale_days} days",
            "bytes that nobody reads can be damaged for long before anyone needs them"
            if vault.needed_bytes
            else "no run over all points was ever made on this host",
            f"run `blockvault verify --all{_flag(vault.name)}`, or give the daemon more time (daemon.verify_budget)",
            vault=vault.name,
            vault_id=vault.vault_id,
        )


def damage_found(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """Stored bytes are not what they must be."""
    for vault in known.vaults:
        if vault.looked is None or not vault.damage:
            continue
        count = len(vault.damage)
        yield Finding(
            "damage-found",
            vault.vault_id,
            Severity.CRITICAL,
            f"vault '{vault.name}': {count} damaged block{'s' * (count != 1)} or record{'s' * (count != 1)}",
            f"the first is {vault.damage[0]}",
            f"run `blockvault vault repair{_flag(vault.name)}`; check the disk under {vault.path}",
            vault=vault.name,
            vault_id=vault.vault_id,
        )


def retention_shortened(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """A policy keeps less than before: somebody may want points to be gone."""
    for vault in known.vaults:
        for change in vault.shortened:
            if known.now - change.changed > timedelta(days=SHORTENED_DAYS):
                continue
            yield Finding(
                "retention-shortened",
                f"{vault.vault_id}/{change.policy}/{change.revision}",
                Severity.WARNING,
                f"vault '{vault.name}': the retention of policy '{change.policy}' was shortened",
                f"{change.note.partition(': ')[2] or change.note}; by {change.by or 'an unknown host'} "
                f"at {_minute(change.changed)}",
                "if that was not meant, set it back before the next prune; `blockvault audit show` tells who it was",
                vault=vault.name,
                vault_id=vault.vault_id,
                since=change.changed,
                stays=True,
            )


# --- the host --------------------------------------------------------------------------------------------------------


def journal_set_aside(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """A journal of jobs, or a book of alerts, was found damaged and put aside."""
    for path in known.set_aside:
        yield Finding(
            "set-aside",
            path.rpartition("/")[2],
            Severity.WARNING,
            f"a damaged record of this host was set aside: {path}",
            "history is lost with it, points are not: what waited to be transferred waits still",
            "check the disk under the state folder; when you have looked at it, remove that folder",
        )


def was_silent(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """Nobody has looked for a time: no points were taken, and nothing was told."""
    if known.silent is None:
        return
    begin, end = known.silent
    yield Finding(
        "was-silent",
        to_text(begin),
        Severity.WARNING,
        f"nothing was looked at for {age(begin, end)}: no daemon ran from {_minute(begin)} to {_minute(end)}",
        "no points were taken in that time, and nothing that was wrong was told",
        "see `blockvault service status`; have something outside notice the silence: a channel of kind ping",
        since=begin,
        stays=True,
    )


def channel_fails(known: Known, _settings: AlertSettings) -> Iterator[Finding]:
    """Messages of a channel cannot be sent: who relies on it hears nothing."""
    for channel, (since, problem) in known.waiting_since.items():
        if known.now - since > WAITING_LONG:
            yield Finding(
                "channel-fails",
                channel,
                Severity.WARNING,
                f"channel '{channel}' has not taken a message since {_minute(since)}",
                problem or "no try has ended yet",
                f"run `blockvault notify test {channel}`; messages wait for up to 7 days",
                since=since,
            )


def is_silent(heartbeat: tuple[datetime, float] | None, now: datetime) -> Finding | None:
    """Silence, as a command sees it that looks while nobody else does.

    Args:
        heartbeat: when a daemon, or its timer, last looked, and for how many seconds it may be silent after that.
        now: the moment.
    """
    if heartbeat is None or (now - heartbeat[0]).total_seconds() <= heartbeat[1]:
        return None
    return Finding(
        "silent",
        "now",
        Severity.CRITICAL,
        f"nothing has been looked at for {age(heartbeat[0], now)}: no daemon runs",
        f"it looked the last time at {_minute(heartbeat[0])}; no points are taken, and nothing is told",
        "see `blockvault service status`",
        since=heartbeat[0],
    )


Rule = Callable[[Known, "AlertSettings"], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    job_failed,
    job_warned,
    rpo_missed,
    churn_unusual,
    vault_unreadable,
    disk_filling,
    verify_stale,
    damage_found,
    retention_shortened,
    journal_set_aside,
    was_silent,
    channel_fails,
)
# Rules that need a vault to have been opened. Of others all that they need is at hand at every look.
_NEEDS_LOOK = frozenset(
    {"rpo-missed", "unusual-churn", "disk-filling", "verify-stale", "damage-found", "retention-shortened"}
)


def findings_of(known: Known, settings: AlertSettings) -> dict[str, Finding]:
    """What all rules find, by key."""
    return {finding.key: finding for rule in RULES for finding in rule(known, settings)}


def can_judge(finding: Finding, known: Known) -> bool:
    """Whether it means anything that a finding is not found any more: what it needs was looked at, or is gone."""
    if finding.rule not in _NEEDS_LOOK:
        return True
    vaults = [vault for vault in known.vaults if vault.vault_id == finding.vault_id]
    return all(vault.looked is not None for vault in vaults)


def _minute(moment: datetime) -> str:
    return to_text(moment)[:16].replace("T", " ") + " UTC"


def _span(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:g} d" if hours >= 48 else f"{hours:g} h"


def _flag(vault: str) -> str:
    """The option that a command needs to mean this vault; none for the default one."""
    return "" if vault == DEFAULT_VAULT else f" --vault {vault}"
