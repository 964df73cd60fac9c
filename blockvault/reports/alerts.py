"""Looking at what there is, and keeping what becomes of each alert.

    watch = Watch(state_dir, book, open_vault, settings.alerts, load_channels(state_dir))
    watch.look(journal, daemon.views, now)          once a minute; opens one vault at most, each once an hour
    held_items(book, vault, now)                    before a prune by policies: items of which nothing may expire

What becomes of an alert (`advance`) is a pure function of the alert, of what the rules find now, and of the time:

    found, new                    open, told
    found, worse than was told    told again; an acknowledgement of the lesser trouble does not cover it
    not found any more            resolved; told as over only when it has stayed away for `QUIET`
    found again before that       open again, not told: who was told of it has not been told that it is over
    found again after that        new

Invariants:
- The last thing that people were told of an alert is never better than it is: flapping keeps it told as open.
- What could not be looked at resolves nothing (`alert_rules.can_judge`).
- An alert that `stays` is open until somebody acknowledges it, and one that holds expiry holds it until then.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from blockvault.clock import from_text, to_text
from blockvault.errors import BlockVaultError, DeviceError, InvalidInputError, NotFoundError
from blockvault.ids import ItemId
from blockvault.model import Protection, Tier
from blockvault.model.alert import (
    Alert,
    AlertState,
    EndedJob,
    Finding,
    ItemFacts,
    Known,
    Outgoing,
    PointFigures,
    Sample,
    Severity,
    Shortening,
    SpaceFacts,
    VaultFacts,
)
from blockvault.model.job import FOREGROUND, Job, JobState, Operation, PhaseName, PhaseState
from blockvault.reports.alert_rules import can_judge, findings_of, is_silent, unusual_churn
from blockvault.reports.messages import Event, Speaker, messages, summary_messages
from blockvault.reports.rpo import interval_of
from blockvault.store.alert_book import AlertBook
from blockvault.store.audit_log import AuditLog
from blockvault.store.journal import jobs_while
from blockvault.units import format_size

if TYPE_CHECKING:
    from blockvault.config.settings import AlertSettings, Channel
    from blockvault.policy.policies import Policy
    from blockvault.store.journal import Journal
    from blockvault.vault import Vault

QUIET = timedelta(hours=1)  # for so long an alert must stay away to be told as over
SEEN_STEP = timedelta(minutes=15)  # `seen` is written no more often
LOOK_EVERY = timedelta(hours=1)  # at a vault
JOBS_BACK = timedelta(days=35)  # longer than three weeks: three runs of a weekly policy
POINTS_KEPT = 40  # of an item, for its history
HEARTBEAT = "heartbeat"
HEARTBEAT_FOR = timedelta(minutes=15)  # a daemon that has not looked for so long is silent
SUMMARY_HOUR = 7  # of this machine's day


class SeenItem(Protocol):
    """An item that a policy takes points of, as the daemon sees it."""

    @property
    def item_id(self) -> ItemId: ...  # noqa: D102
    @property
    def item(self) -> str: ...  # noqa: D102
    @property
    def policy(self) -> Policy: ...  # noqa: D102


class SeenProblem(Protocol):
    """Why a vault could not be read."""

    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def why(self) -> str | None: ...  # noqa: D102
    @property
    def do(self) -> str | None: ...  # noqa: D102


class SeenVault(Protocol):
    """A vault as the daemon sees it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def vault_id(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def items(self) -> Sequence[SeenItem]: ...  # noqa: D102
    @property
    def problem(self) -> SeenProblem | None: ...  # noqa: D102


# --- what becomes of an alert ----------------------------------------------------------------------------------------


def advance(
    alert: Alert | None, finding: Finding | None, now: datetime, quiet: timedelta = QUIET
) -> tuple[Alert | None, str | None]:
    """An alert after a look; the table stands at the top.

    Args:
        alert: as it was; None: there was none.
        finding: what the rules say of it now; None: it is not so any more.
        now: the moment of the look.
        quiet: for how long it must stay away to be told as over.

    Returns:
        the alert as it is now, and what is to be told of it: `opened`, `worse`, `resolved`, or nothing.
    """
    if finding is None:
        return _gone(alert, now, quiet)
    if alert is None or (alert.resolved is not None and alert.told is None):
        return Alert(finding, finding.since or now, now, told=finding.severity), "opened"
    changed = alert
    if alert.resolved is not None:
        changed = replace(changed, resolved=None, reopened=alert.reopened + 1)
    if alert.told is None or finding.severity.rank > alert.told.rank:
        return replace(changed, finding=finding, seen=now, acknowledged=None, by="", told=finding.severity), "worse"
    if changed is alert and finding == alert.finding and now - alert.seen < SEEN_STEP and now >= alert.seen:
        return alert, None
    return replace(changed, finding=finding, seen=now), None


def _gone(alert: Alert | None, now: datetime, quiet: timedelta) -> tuple[Alert | None, str | None]:
    if alert is None:
        return None, None
    if alert.resolved is None:
        if alert.finding.stays and alert.acknowledged is None:
            return alert, None
        return replace(alert, resolved=now), None
    if alert.told is not None and now - alert.resolved >= quiet:
        return replace(alert, told=None), "resolved"
    return alert, None


def fold(
    book: AlertBook,
    findings: Mapping[str, Finding],
    judged: Callable[[Finding], bool],
    channels: Sequence[Channel],
    speaker: Speaker,
    now: datetime,
) -> list[Event]:
    """Take in what the rules found: alerts and the messages about them, in one transaction; returns what was told.

    Args:
        book: of the host.
        findings: by key.
        judged: whether the absence of what an alert says means anything now.
        channels: who is told.
        speaker: who tells.
        now: the moment.
    """
    events: list[Event] = []

    def decide(known: dict[str, Alert]) -> tuple[list[Alert], list[Outgoing]]:
        events.clear()
        changed = []
        for key in sorted(known.keys() | findings.keys()):
            before, finding = known.get(key), findings.get(key)
            if finding is None and before is not None and not judged(before.finding):
                continue
            after, told = advance(before, finding, now)
            if after is None or after is before:
                continue
            changed.append(after)
            if told is not None:
                events.append(Event(told, after))
        return changed, messages(channels, events, speaker, now)

    book.change(decide)
    return events


def acknowledge(book: AlertBook, wanted: str, by: str, now: datetime) -> Alert:
    """Say that an alert is known: it is told no more unless it gets worse, and holds no expiry any more.

    Args:
        book: of the host.
        wanted: its id, or a beginning of it that no other open alert has.
        by: who says so.
        now: the moment.

    Raises:
        NotFoundError: there is no such open alert (`alert.not-found`).
        InvalidInputError: several begin so (`alert.ambiguous`).
    """
    done: list[Alert] = []

    def decide(known: dict[str, Alert]) -> tuple[list[Alert], list[Outgoing]]:
        done[:] = [replace(find_alert(list(known.values()), wanted), acknowledged=now, by=by)]
        return done, []

    book.change(decide)
    return done[0]


def find_alert(alerts: Iterable[Alert], wanted: str) -> Alert:
    """The alert of that id that is not resolved. Raises as `acknowledge`."""
    open_alerts = [alert for alert in alerts if alert.state is not AlertState.RESOLVED]
    found = [alert for alert in open_alerts if wanted and (alert.id == wanted or alert.key == wanted)]
    found = found or [alert for alert in open_alerts if len(wanted) >= 3 and alert.id.startswith(wanted)]
    if len(found) > 1:
        raise InvalidInputError(
            "alert.ambiguous",
            f"several alerts begin with '{wanted}'",
            why=", ".join(alert.id for alert in found[:8]),
            do="write more of it",
        )
    if not found:
        raise NotFoundError("alert.not-found", f"there is no open alert '{wanted}'", do="see `blockvault alert list`")
    return found[0]


# --- facts of an opened vault ----------------------------------------------------------------------------------------


KnownSince = Callable[[str, Sequence[str], datetime], Mapping[str, datetime]]  # as `AlertBook.known_since`


def items_of(vault: Vault, known_since: KnownSince, now: datetime) -> list[ItemFacts]:
    """The protected items of an opened vault, with their points."""
    rows: dict[str, list[PointFigures]] = {}
    newest: dict[str, datetime] = {}
    for info in vault.points():
        point = info.point
        if point is None or info.tier is Tier.SNAPSHOT:
            continue
        figures, item_id = info.statistics, point.item_id
        newest[item_id] = max(point.taken, newest.get(item_id, point.taken))
        rows.setdefault(item_id, []).append(
            PointFigures(
                number=info.number,
                label=info.label,
                taken=point.taken,
                changed_bytes=figures.changed_bytes,
                unique_bytes=figures.unique_bytes,
                stored_bytes=figures.stored_bytes,
                size_bytes=info.size_bytes,
                is_first=point.parent is None,
            )
        )
    protected = []
    for item in vault.items():
        if item.protection is Protection.PROTECTED:
            try:
                policy = vault.policy_of(item)
            except BlockVaultError:
                continue  # the daemon tells of it
            if policy is not None:
                protected.append((item, policy))
    since = known_since(vault.id, [item.id for item, _ in protected], now)
    return [
        ItemFacts(
            item_id=item.id,
            item=item.name,
            vault=vault.name,
            vault_id=vault.id,
            policy=policy.name,
            interval_seconds=interval_of(policy.schedule).total_seconds(),
            known_since=since[item.id],
            last_good=newest.get(item.id),
            points=tuple(sorted(rows.get(item.id, []), key=lambda point: point.taken)[-POINTS_KEPT:]),
        )
        for item, policy in protected
    ]


def facts_of(vault: Vault, book: AlertBook, settings: AlertSettings, now: datetime) -> VaultFacts:
    """What rules go by of an opened vault; its space of today is kept as a sample."""
    infos = vault.points()
    coverage = vault.coverage(within_days=settings.verify_stale_days, now=now)
    stored = sum(info.statistics.stored_bytes for info in infos)
    spaces = [_space(book, f"vault '{vault.name}'", vault.path, f"vault/{vault.id}", stored, now)]
    devices = {_device(vault.path)}
    for folder in vault.snapshot_folders():
        device = _device(folder)
        if device is None or device in devices:
            continue
        devices.add(device)
        spaces.append(_space(book, f"snapshots in {folder}", folder, f"snapshots/{vault.id}{folder}", 0, now))
    return VaultFacts(
        name=vault.name,
        vault_id=vault.id,
        path=vault.path,
        looked=now,
        created=vault.created,
        point_count=sum(1 for info in infos if info.tier is not Tier.SNAPSHOT),
        needed_bytes=coverage.needed_bytes,
        verified_bytes=coverage.verified_bytes,
        damage=vault.damage(),
        shortened=tuple(_shortenings(vault)),
        spaces=tuple(space for space in spaces if space is not None),
    )


def _shortenings(vault: Vault) -> list[Shortening]:
    found = []
    for policy in vault.policies():
        revision = vault.policy_revision(policy.name)
        if revision is not None and revision.note.startswith("retention was shortened"):
            found.append(Shortening(policy.name, policy.revision, revision.changed, revision.by, revision.note))
    return found


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _space(book: AlertBook, what: str, path: str, key: str, used: int, now: datetime) -> SpaceFacts | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    samples = book.samples(key)
    if not samples or samples[-1].day < now.date():
        sample = Sample(now.date(), used, free, total)
        book.add_sample(key, sample)
        samples = (*samples, sample)
    return SpaceFacts(what, path, key, free, total, samples)


def held_items(book: AlertBook, vault: Vault, now: datetime, channels: Sequence[Channel] = ()) -> dict[ItemId, str]:
    """Items of an opened vault of which nothing may expire now, and why: for `Vault.plan_prune(held_items=...)`.

    The points are looked at now: one that was made since the last look holds, too.
    """
    findings = {finding.key: finding for finding in _unusual_now(vault, book.known_since, now)}
    fold(book, findings, lambda _finding: False, channels, speaker_of(vault.state_dir), now)
    return expiry_held(book, vault.id)


def held_by_alerts(vault: Vault, now: datetime, channels: Sequence[Channel] = ()) -> dict[ItemId, str]:
    """As `held_items`, by the book of the vault's host, which is opened for it; no book of it may be open already.

    Where no book can be kept, on a full or read-only disk, every sign holds: nobody can have acknowledged it.
    """
    try:
        with AlertBook(vault.state_dir) as book:
            return held_items(book, vault, now, channels)
    except DeviceError:
        found = _unusual_now(vault, lambda _vault, ids, moment: dict.fromkeys(ids, moment), now)
        return {ItemId(finding.item_id): f"expiry is held: {finding.why}" for finding in found}


def _unusual_now(vault: Vault, known_since: KnownSince, now: datetime) -> list[Finding]:
    return [finding for item in items_of(vault, known_since, now) for finding in unusual_churn(item, now)]


def expiry_held(book: AlertBook, vault_id: str) -> dict[ItemId, str]:
    """Why nothing of items expires, by item, as the alerts say that are open; nothing is looked at."""
    held: dict[ItemId, str] = {}
    for alert in book.alerts():
        if alert.holds_expiry and alert.finding.vault_id == vault_id:
            item_id = ItemId(alert.finding.item_id)
            held.setdefault(item_id, f"expiry is held by alert {alert.id}: {alert.finding.why}")
    return held


# --- the heartbeat ---------------------------------------------------------------------------------------------------


def beat(state_dir: str, now: datetime, silent_for: timedelta = HEARTBEAT_FOR) -> None:
    """Note that somebody looks, and for how long the next look may be away."""
    told = {"at": to_text(now), "silent_for_seconds": silent_for.total_seconds(), "pid": os.getpid()}
    path = os.path.join(state_dir, HEARTBEAT)
    temporary = f"{path}.tmp"
    try:  # not synced: a heartbeat that a power cut takes is one that did not beat
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(told, file)
        os.rename(temporary, path)
    except OSError:
        pass  # a full disk is told by another alert


def heartbeat(state_dir: str) -> tuple[datetime, float] | None:
    """When somebody last looked, and for how many seconds it may be silent after that; None: nobody ever has."""
    try:
        with open(os.path.join(state_dir, HEARTBEAT), encoding="utf-8") as file:
            told = json.load(file)
        return from_text(told["at"]), float(told["silent_for_seconds"])
    except (OSError, ValueError, KeyError, TypeError, BlockVaultError):
        return None


def forget_heartbeat(state_dir: str) -> None:
    """Nobody shall look any more: that is no silence to be told."""
    try:
        os.unlink(os.path.join(state_dir, HEARTBEAT))
    except FileNotFoundError:
        pass


def silence(state_dir: str, now: datetime) -> Finding | None:
    """That nobody looks any more, for `alert list` and `doctor`."""
    return is_silent(heartbeat(state_dir), now)


def speaker_of(state_dir: str) -> Speaker:
    """This host, and the newest line of its audit log; of one that cannot be read line 0."""
    try:
        newest = AuditLog(state_dir).newest()
    except BlockVaultError:
        newest = (0, "the audit log cannot be read")
    return Speaker(socket.gethostname(), newest)


# --- the watch -------------------------------------------------------------------------------------------------------


class Watch:
    """Looks at what there is, once a minute; tells what has changed.

    Args:
        state_dir: the host's state folder.
        book: of alerts; opened by the caller, who closes it.
        open_vault: opens a vault by its name.
        settings: when something is told.
        channels: who is told.
        silent_for: how long until the next look at the most, for who watches the watch.
    """

    def __init__(
        self,
        state_dir: str,
        book: AlertBook,
        open_vault: Callable[[str], AbstractContextManager[Vault]],
        settings: AlertSettings,
        channels: Sequence[Channel] = (),
        *,
        silent_for: timedelta = HEARTBEAT_FOR,
    ) -> None:
        self._state_dir = state_dir
        self._book = book
        self._open = open_vault
        self._settings = settings
        self._channels = channels
        self._silent_for = silent_for
        self._facts: dict[str, VaultFacts] = {}
        self._items: dict[str, list[ItemFacts]] = {}
        self._unusual: dict[str, list[Finding]] = {}
        self._looked: dict[str, datetime] = {}  # by vault: when it was last opened, or tried to be
        self._jobs = _EndedJobs(settings.warn_times)
        self._silent: tuple[datetime, datetime] | None = None
        self._last: datetime | None = None

    def look(
        self, journal: Journal, views: Sequence[SeenVault], now: datetime, *, at_once: bool = False
    ) -> list[Event]:
        """Look at everything that costs little, and at one vault if its hour is over; returns what was told.

        Args:
            journal: of jobs.
            views: the vaults as the daemon sees them.
            now: the moment.
            at_once: look at all vaults, not at one: for a timer's run, which has no next look.
        """
        self._take_pulse(now)
        self._jobs.read(journal, now)
        self._look_at_vaults(views, now, at_once=at_once)
        known = self._known(views, now)
        speaker = speaker_of(self._state_dir)
        findings = findings_of(known, self._settings)
        events = fold(self._book, findings, lambda each: can_judge(each, known), self._channels, speaker, now)
        self._summarize(known, speaker, now)
        return events

    @property
    def is_well(self) -> bool:
        """Whether no critical alert is open that nobody has acknowledged: what a ping may call alive."""
        return not any(
            alert.state is AlertState.OPEN and alert.finding.severity is Severity.CRITICAL
            for alert in self._book.alerts()
        )

    def _take_pulse(self, now: datetime) -> None:
        if self._last is None:
            before = heartbeat(self._state_dir)
            if before is not None and (now - before[0]).total_seconds() > before[1]:
                self._silent = (before[0], now)
        elif now < self._last:
            self._looked.clear()  # the clock was set back
        self._last = now
        beat(self._state_dir, now, self._silent_for)

    def _look_at_vaults(self, views: Sequence[SeenVault], now: datetime, *, at_once: bool) -> None:
        ids = {view.vault_id for view in views}
        for gone in self._facts.keys() - ids:
            del self._facts[gone]
            self._items.pop(gone, None)
            self._unusual.pop(gone, None)
        due = [view for view in views if view.problem is None and self._is_due(view, now)]
        due.sort(key=lambda view: to_text(self._looked[view.vault_id]) if view.vault_id in self._looked else "")
        for view in due if at_once else due[:1]:
            self._looked[view.vault_id] = now
            try:
                with self._open(view.name) as vault:
                    items = items_of(vault, self._book.known_since, now)
                    self._facts[view.vault_id] = facts_of(vault, self._book, self._settings, now)
            except (BlockVaultError, OSError):
                continue  # the daemon's next look tells of it; what was known of it stays
            self._unusual[view.vault_id] = [each for item in items for each in unusual_churn(item, now)]
            self._items[view.vault_id] = [replace(item, points=()) for item in items]

    def _is_due(self, view: SeenVault, now: datetime) -> bool:
        looked = self._looked.get(view.vault_id)
        return looked is None or now - looked >= LOOK_EVERY

    def _known(self, views: Sequence[SeenVault], now: datetime) -> Known:
        vaults = []
        for view in views:
            facts = self._facts.get(view.vault_id) or VaultFacts(view.name, view.vault_id, view.path)
            problem = None
            if view.problem is not None:
                problem = (view.problem.message, view.problem.why or "", view.problem.do or "")
            vaults.append(replace(facts, name=view.name, path=view.path, problem=problem))
        waiting: dict[str, tuple[datetime, str]] = {}
        names = {channel.name for channel in self._channels}
        for message in self._book.waiting():
            if message.channel in names:
                waiting.setdefault(message.channel, (message.created, message.problem))
        return Known(
            now=now,
            jobs=tuple(self._jobs.ended),
            items=tuple(self._with_jobs(item) for items in self._items.values() for item in items),
            vaults=tuple(vaults),
            unusual=tuple(finding for found in self._unusual.values() for finding in found),
            set_aside=tuple(_set_aside(self._state_dir)),
            silent=self._silent,
            waiting_since=waiting,
        )

    def _with_jobs(self, item: ItemFacts) -> ItemFacts:
        """An item with points that jobs have brought into the vault since it was last looked at."""
        looked = self._looked[item.vault_id]
        newest = self._jobs.newest_point.get(item.item_id)
        if newest is None or newest[1] < looked or (item.last_good is not None and newest[0] <= item.last_good):
            return item
        return replace(item, last_good=newest[0])

    def _summarize(self, known: Known, speaker: Speaker, now: datetime) -> None:
        """Once a day, the first look after `SUMMARY_HOUR`."""
        local = now.astimezone()
        today = local.date().isoformat()
        if local.hour < SUMMARY_HOUR or self._book.fact("summary") >= today:
            return
        self._book.trim(now)
        jobs: dict[str, int] = {}
        for job in known.jobs:
            if now - job.ended <= timedelta(days=1):
                jobs[job.state] = jobs.get(job.state, 0) + 1
        alerts = sorted(
            (alert for alert in self._book.alerts() if alert.state is not AlertState.RESOLVED),
            key=lambda alert: -alert.finding.severity.rank,
        )
        summary = {
            "jobs": jobs,
            "vaults": [
                {"vault": vault.name, "free_bytes": space.free_bytes, "text": _space_text(vault, space)}
                for vault in known.vaults
                for space in vault.spaces[:1]
            ],
            "open_alerts": [
                {
                    "alert": alert.id,
                    "severity": alert.finding.severity,
                    "state": alert.state,
                    "text": alert.finding.text,
                }
                for alert in alerts[:50]
            ],
        }
        self._book.set_fact("summary", today, summary_messages(self._channels, summary, speaker, now))


class _EndedJobs:
    """The jobs that have ended of late, newest first; of the journal only what is new is read.

    Kept are those of the last day, and of each item and operation the newest `keep`.
    """

    def __init__(self, keep: int) -> None:
        self.ended: list[EndedJob] = []
        self.newest_point: dict[str, tuple[datetime, datetime]] = {}  # by item: taken about then, in the vault since
        self._keep = keep
        self._known: dict[str, EndedJob] = {}
        self._read_to = ""  # all jobs up to this id have ended and were read
        self._revision = -1
        self._last: datetime | None = None

    def read(self, journal: Journal, now: datetime) -> None:
        """Take in what has ended since the last call."""
        if self._last is not None and now < self._last:
            self._read_to, self._revision = "", -1  # the clock was set back, and ids are in order of its time
        self._last = now
        revision = journal.revision
        if revision == self._revision:
            return
        oldest = now - JOBS_BACK
        still_open, done = [], []
        for job in jobs_while(journal, lambda job: job.id > self._read_to and job.created >= oldest):
            if job.ended is None or job.is_open:
                still_open.append(job.id)
            else:
                done.append(job.id)
                self._take(job, job.ended)
        first_open = min(still_open, default=None)
        self._read_to = max((each for each in done if first_open is None or each < first_open), default=self._read_to)
        self._revision = revision
        self._forget(now)

    def _forget(self, now: datetime) -> None:
        counts: dict[tuple[str, str, str], int] = {}
        self.ended = []
        for job in sorted(self._known.values(), key=lambda job: (job.created, job.id), reverse=True):
            subject = (job.vault_id, job.item_id, job.operation)
            if job.state != JobState.CANCELLED:
                counts[subject] = counts.get(subject, 0) + 1
            is_recent = now - job.ended <= timedelta(days=1)
            if is_recent or (counts.get(subject, 0) <= self._keep and now - job.created <= JOBS_BACK):
                self.ended.append(job)
        self._known = {job.id: job for job in self.ended}

    def _take(self, job: Job, ended: datetime) -> None:
        if job.operation is Operation.RESTORE and job.details.get("by") == FOREGROUND:
            return  # whoever ran it has seen what came of it
        transfer = job.phase(PhaseName.TRANSFER) or job.phase(PhaseName.RUN)
        brought = transfer is not None and transfer.state is PhaseState.COMPLETED
        made_point = brought and job.operation in (Operation.BACKUP, Operation.TRANSFER)
        problems = [phase.problem for phase in job.phases if phase.problem is not None] + list(job.warnings)
        problem = None
        if problems and job.state is not JobState.COMPLETED:
            problem = (problems[0].message, problems[0].why or "", problems[0].do or "")
        self._known[job.id] = EndedJob(
            id=job.id,
            operation=job.operation.value,
            state=job.state.value,
            vault=job.vault,
            vault_id=job.vault_id,
            item=job.item,
            item_id=job.item_id,
            created=job.created,
            ended=ended,
            problem=problem,
            made_point=made_point,
        )
        if made_point and job.operation is Operation.BACKUP:
            before = self.newest_point.get(job.item_id)
            if before is None or job.created > before[0]:
                self.newest_point[job.item_id] = (job.created, ended)


def _space_text(vault: VaultFacts, space: SpaceFacts) -> str:
    points = "1 point" if vault.point_count == 1 else f"{vault.point_count} points"
    return f"{points}, {format_size(space.free_bytes)} of {format_size(space.total_bytes)} free"


def _set_aside(state_dir: str) -> list[str]:
    """Stores of this host that were found damaged and put aside, as long as their folders are there."""
    try:
        names = os.listdir(state_dir)
    except OSError:
        return []
    return [os.path.join(state_dir, name) for name in sorted(names) if re.fullmatch(r"\w+\.damaged-\d+", name)]
