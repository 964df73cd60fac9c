"""What becomes of alerts, by the book and by a watch over a real vault and a real journal."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.site import Site
from hypothesis import given
from hypothesis import strategies as st

from blockvault.config.settings import AlertSettings, Channel
from blockvault.errors import BlockVaultError, InvalidInputError, NotFoundError
from blockvault.ids import ItemId, VaultId
from blockvault.jobs import phases
from blockvault.model import PointStatistics
from blockvault.model.alert import Alert, AlertState, Finding, Outgoing, Sample, Severity
from blockvault.model.job import PhaseName, Problem, Trigger
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.reports import alert_rules, alerts
from blockvault.reports.alerts import (
    Watch,
    acknowledge,
    advance,
    beat,
    expiry_held,
    fold,
    heartbeat,
    held_by_alerts,
    held_items,
    silence,
)
from blockvault.reports.messages import Speaker
from blockvault.store.alert_book import AlertBook
from blockvault.store.audit_log import AuditLog
from blockvault.store.journal import Journal
from blockvault.vault import Vault

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
SPEAKER = Speaker("nas", (0, "0" * 64))
HOOK = Channel(name="hook", kind="webhook", url="https://example.org/x")
WARNING = Finding("job-failed", "i/backup", Severity.WARNING, "it failed", "because", "look")
CRITICAL = replace(WARNING, severity=Severity.CRITICAL)


def run(steps: list[tuple[float, Finding | None]], alert: Alert | None = None) -> tuple[Alert | None, list[str]]:
    """The alert after looks at these minutes, and what was told."""
    told = []
    for minutes, finding in steps:
        alert, event = advance(alert, finding, NOW + minutes * MINUTE)
        if event:
            told.append(event)
    return alert, told


# --- one alert


def test_an_alert_is_told_once_and_told_as_over_when_it_stays_away() -> None:
    alert, told = run([(0, WARNING), (1, WARNING), (2, None), (61, None)])
    assert (told, alert and alert.state) == (["opened"], AlertState.RESOLVED)
    alert, told = run([(62, None), (63, None)], alert)
    assert told == ["resolved"]
    assert run([(64, WARNING)], alert)[1] == ["opened"]  # that is a new one


def test_flapping_is_not_told_again_and_stays_told_as_open() -> None:
    steps: list[tuple[float, Finding | None]] = [(m, WARNING if m % 2 == 0 else None) for m in range(600)]
    alert, told = run(steps)
    assert told == ["opened"]
    assert alert is not None
    assert alert.reopened == 299
    assert run([(700, None)], alert)[1] == ["resolved"]


def test_what_gets_worse_is_told_again_also_when_it_was_acknowledged() -> None:
    alert, told = run([(0, WARNING)])
    assert alert is not None
    known = replace(alert, acknowledged=NOW, by="eve")
    assert run([(1, WARNING), (2, replace(WARNING, text="still"))], known)[1] == []
    worse, told = run([(3, CRITICAL), (4, WARNING), (5, CRITICAL)], known)
    assert told == ["worse"]
    assert worse is not None
    assert worse.state is AlertState.OPEN


def test_what_stays_is_open_until_somebody_knows() -> None:
    stays = replace(WARNING, stays=True)
    alert, told = run([(0, stays), (1, None), (10_000, None)])
    assert (told, alert and alert.state) == (["opened"], AlertState.OPEN)
    assert alert is not None
    alert, told = run([(10_001, None), (10_100, None)], replace(alert, acknowledged=NOW, by="eve"))
    assert (told, alert and alert.state) == (["resolved"], AlertState.RESOLVED)


def test_what_was_seen_a_minute_ago_is_not_written_again() -> None:
    alert, _ = run([(0, WARNING)])
    assert run([(1, WARNING)], alert)[0] is alert
    later, _ = run([(20, WARNING)], alert)
    assert later is not None
    assert later.seen == NOW + 20 * MINUTE


@given(st.lists(st.tuples(st.integers(1, 90), st.sampled_from((None, WARNING, CRITICAL))), max_size=60))
def test_what_people_were_told_last_is_never_better_than_it_is(steps: list[tuple[int, Finding | None]]) -> None:
    alert, minutes = None, 0
    believed: Severity | None = None
    for wait, finding in steps:
        minutes += wait
        alert, event = advance(alert, finding, NOW + minutes * MINUTE)
        if event in ("opened", "worse"):
            assert finding is not None
            believed = finding.severity
        elif event == "resolved":
            assert finding is None
            believed = None
        if finding is not None:
            assert believed is not None
            assert believed.rank >= finding.severity.rank
        assert (alert.told if alert else None) == believed


# --- the book


@pytest.fixture
def book(tmp_path: Path) -> Iterator[AlertBook]:
    with AlertBook(str(tmp_path)) as opened:
        yield opened


def look(book: AlertBook, *findings: Finding, at: datetime = NOW, channels: tuple[Channel, ...] = (HOOK,)) -> list[str]:
    found = {finding.key: finding for finding in findings}
    return [event.what for event in fold(book, found, lambda _: True, channels, SPEAKER, at)]


def test_many_alerts_of_one_look_are_one_message(book: AlertBook) -> None:
    many = [replace(WARNING, subject=f"{n}/backup", text=f"item {n}\x1b[31m failed") for n in range(200)]
    assert look(book, *many, CRITICAL) == ["opened"] * 201
    (message,) = book.waiting()
    document = json.loads(message.body)
    assert document["subject"] == "critical: it failed (and 200 more)"
    assert (len(document["alerts"]), document["alerts_left_out"]) == (50, 151)
    assert document["events"] == ["alert.critical", "alert.warning", "job.failed"]
    assert "\x1b" not in message.body
    assert look(book, *many, CRITICAL, at=NOW + MINUTE) == []
    assert len(book.waiting()) == 1


def test_channels_hear_what_they_asked_for(book: AlertBook) -> None:
    jobs = replace(HOOK, name="jobs", events=("job.failed",))
    worst = replace(HOOK, name="worst", events=("alert.critical",))
    beep = replace(HOOK, name="beep", kind="ping")
    look(book, WARNING, channels=(jobs, worst, beep))
    assert [each.channel for each in book.waiting()] == ["jobs"]
    look(book, CRITICAL, at=NOW + MINUTE, channels=(jobs, worst, beep))
    assert sorted(each.channel for each in book.waiting()) == ["beep", "jobs", "jobs", "worst"]


def test_an_alert_and_its_message_are_one_commit(tmp_path: Path, book: AlertBook, hook: object) -> None:
    from blockvault import failpoints

    def stop(name: str) -> None:
        if name == "environment.commit":
            raise OSError(5, "killed")

    failpoints.set_hook(stop)
    with pytest.raises(OSError, match="killed"):
        look(book, WARNING)
    failpoints.set_hook(None)
    assert (book.alerts(), book.waiting()) == ([], [])
    assert look(book, WARNING) == ["opened"]
    book.close()
    with AlertBook(str(tmp_path)) as again:
        assert [alert.finding for alert in again.alerts()] == [WARNING]
        assert len(again.waiting()) == 1
        assert look(again, WARNING, at=NOW + MINUTE) == []


def test_what_was_not_judged_stays_open(book: AlertBook) -> None:
    look(book, WARNING)
    fold(book, {}, lambda _: False, (), SPEAKER, NOW + DAY)
    assert [alert.state for alert in book.alerts()] == [AlertState.OPEN]


def test_acknowledging(book: AlertBook) -> None:
    look(book, WARNING, replace(CRITICAL, subject="other"))
    first = next(alert for alert in book.alerts() if alert.key == WARNING.key)
    assert acknowledge(book, first.id[:6], "eve", NOW).state is AlertState.ACKNOWLEDGED
    assert [alert.by for alert in book.alerts() if alert.key == WARNING.key] == ["eve"]
    with pytest.raises(InvalidInputError, match="several"):
        alerts.find_alert([first, replace(first)], first.id)
    with pytest.raises(NotFoundError):
        acknowledge(book, "a-00000000", "eve", NOW)
    with pytest.raises(NotFoundError):
        acknowledge(book, "", "eve", NOW)


def test_one_sample_a_day_and_old_ones_go(book: AlertBook) -> None:
    for hours in range(0, 24 * 5, 6):
        moment = NOW + hours * HOUR
        book.add_sample("vault/v", Sample(moment.date(), hours, 100, 1000))
    kept = book.samples("vault/v")
    assert [sample.used_bytes for sample in kept] == [0, 12, 36, 60, 84, 108]
    assert book.samples("vault/") == ()
    book.trim(NOW + 402 * DAY)
    assert [sample.used_bytes for sample in book.samples("vault/v")] == [36, 60, 84, 108]


def test_an_outbox_has_an_end(book: AlertBook) -> None:
    from blockvault.store import alert_book

    messages = [Outgoing(f"{n:013d}-x", "hook", NOW + n * MINUTE, "{}") for n in range(alert_book.OUTBOX_MOST + 5)]
    book.post(messages)
    assert [each.id for each in book.waiting("hook")] == [each.id for each in messages[5:]]


def test_a_damaged_book_is_set_aside_and_told(tmp_path: Path) -> None:
    with AlertBook(str(tmp_path)) as book:
        look(book, WARNING)
    data = tmp_path / "alerts" / "data.mdb"
    data.write_bytes(b"rubbish" * 1000)
    with AlertBook(str(tmp_path)) as book:
        assert book.alerts() == []
        assert book.set_aside == str(tmp_path / "alerts.damaged-1")


def test_names_that_are_no_utf_8(book: AlertBook) -> None:
    look(book, replace(WARNING, item="a\udcff", text="item a\udcff failed"))
    assert book.alerts()[0].finding.item == "a\udcff"
    assert len(book.waiting()) == 1


# --- the heartbeat


def test_a_heartbeat_that_stops_is_silence(tmp_path: Path) -> None:
    assert (heartbeat(str(tmp_path)), silence(str(tmp_path), NOW)) == (None, None)
    beat(str(tmp_path), NOW)
    assert silence(str(tmp_path), NOW + 15 * MINUTE) is None
    assert silence(str(tmp_path), NOW + 16 * MINUTE) is not None
    beat(str(tmp_path), NOW, 3 * HOUR)
    assert silence(str(tmp_path), NOW + 2 * HOUR) is None
    for rubbish in ("", "{}", "[1]", '{"at": 3, "silent_for_seconds": "x"}'):
        (tmp_path / "heartbeat").write_text(rubbish)
        assert silence(str(tmp_path), NOW) is None


# --- the watch


@dataclass(frozen=True)
class View:
    """A vault as the daemon hands it over."""

    name: str
    vault_id: str
    path: str
    items: tuple[()] = ()
    problem: Problem | None = None


class World:
    """A vault with one protected item, a journal, and a watch; time is given."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.state = str(site.state)
        self.image = site.root / "web01.img"
        self.random = random.Random(3)
        self.image.write_bytes(bytes(4 << 20))
        self.opened = 0
        self.sent: list[dict[str, Any]] = []
        self.journal = Journal(self.state)
        self.book = AlertBook(self.state)
        self.watch = self.new_watch()

    def new_watch(self) -> Watch:
        return Watch(self.state, self.book, self._open, AlertSettings(), [HOOK])

    def _open(self, name: str) -> Vault:
        self.opened += 1
        self.site.close()
        return Vault.open(name, state_dir=self.state)

    def point(self, at: datetime, changed: int = 65_536, *, random_bytes: bool = False) -> None:
        with self.image.open("r+b") as file:
            file.seek(self.random.randrange(1 << 20))
            word = self.random.randbytes(64)
            file.write(self.random.randbytes(changed) if random_bytes else word * (changed // 64))
        self.site.vault.snapshot([str(self.image)], name="web01", keep=False, now=at)

    def protect(self, at: datetime, interval: int = 24) -> None:
        schedule = Schedule.hourly(interval) if interval < 24 else Schedule.daily("02:00", zone="UTC")
        vault = self.site.vault
        vault.create_policy(Policy("nightly", schedule, RetentionRules(keep_last=2)), now=at)
        vault.assign_policy(["web01"], "nightly", confirmed=True, now=at)

    def view(self, problem: Problem | None = None) -> View:
        return View("default", self.site.vault.id, self.site.vault.path, problem=problem)

    def look(self, at: datetime, problem: Problem | None = None) -> list[str]:
        view = self.view(problem)
        events = self.watch.look(self.journal, [view], at)
        for message in self.book.waiting():  # the channel takes all at once
            self.sent.append(json.loads(message.body))
            self.book.sent(message)
        return [f"{event.what} {event.alert.finding.rule}" for event in events]

    def close(self) -> None:
        self.book.close()
        self.journal.close()


@pytest.fixture
def world(site: Site) -> Iterator[World]:
    made = World(site)
    yield made
    made.close()


def test_a_watch_over_a_real_vault(world: World) -> None:
    world.point(NOW)
    world.protect(NOW)
    assert world.look(NOW) == []
    assert (world.opened, heartbeat(world.state)) == (1, (NOW, 900.0))
    for minutes in range(1, 60, 9):
        assert world.look(NOW + minutes * MINUTE) == []
    assert world.opened == 1  # a vault is opened once an hour
    assert world.look(NOW + HOUR) == []
    assert world.opened == 2
    assert world.look(NOW + 49 * HOUR) == ["opened rpo-missed"]
    world.point(NOW + 49 * HOUR)
    assert world.look(NOW + 51 * HOUR) == []
    assert [alert.state for alert in world.book.alerts()] == [AlertState.RESOLVED]
    assert world.look(NOW + 53 * HOUR) == ["resolved rpo-missed"]
    key = f"vault/{world.site.vault.id}"
    assert [sample.day.day for sample in world.book.samples(key)] == [20, 22]
    assert {each["subject"].split(":")[0] for each in world.sent} == {
        "daily summary",
        "over",
        "warning",
    }


def test_a_point_that_a_job_has_brought_counts_before_the_vault_is_opened_again(world: World) -> None:
    world.point(NOW)
    world.protect(NOW)
    item = world.site.vault.item("web01").id
    begin = NOW + 47 * HOUR + 30 * MINUTE
    assert world.look(begin) == []
    made = phases.backup_job(
        vault="default",
        vault_id=VaultId(world.site.vault.id),
        item_id=ItemId(item),
        item="web01",
        trigger=Trigger.SCHEDULE,
        now=begin + MINUTE,
    )
    job = world.journal.add(made)
    assert job is not None
    assert world.look(begin + 2 * MINUTE) == []

    def done(job: object, _others: object) -> object:
        at = begin + 3 * MINUTE
        begun = phases.begin(job, PhaseName.CAPTURE, at)  # type: ignore[arg-type]
        captured = phases.begin(phases.captured(begun, 2, [], at), PhaseName.TRANSFER, at)
        return replace(phases.complete(captured, PhaseName.TRANSFER, at), statistics=PointStatistics())

    world.journal.change(job.id, done)  # type: ignore[arg-type]
    opened = world.opened
    assert world.look(begin + 45 * MINUTE) == []  # over 48 hours after the last point that was looked at
    assert world.opened == opened


def test_failed_jobs_are_told_and_end_with_one_that_went_well(world: World) -> None:
    world.point(NOW)
    world.protect(NOW)

    def job(at: datetime, *, well: bool) -> None:
        made = phases.backup_job(
            vault="default",
            vault_id=VaultId(world.site.vault.id),
            item_id=ItemId(world.site.vault.item("web01").id),
            item="web01",
            trigger=Trigger.SCHEDULE,
            now=at,
            retries=0,
        )
        added = world.journal.add(made)
        assert added is not None

        def end(job: object, _others: object) -> object:
            begun = phases.begin(job, PhaseName.CAPTURE, at)  # type: ignore[arg-type]
            if well:
                return phases.went_at_once(begun, 2, at, ())
            return phases.fail(begun, PhaseName.CAPTURE, Problem("image.gone", "the image is gone"), at, retries=0)

        world.journal.change(added.id, end)  # type: ignore[arg-type]

    assert world.look(NOW) == []
    job(NOW + MINUTE, well=False)
    assert world.look(NOW + 2 * MINUTE) == ["opened job-failed"]
    job(NOW + 3 * MINUTE, well=False)
    assert world.look(NOW + 4 * MINUTE) == []
    job(NOW + 5 * MINUTE, well=True)
    assert world.look(NOW + 6 * MINUTE) == []
    assert world.look(NOW + 90 * MINUTE) == ["resolved job-failed"]
    world.watch = world.new_watch()  # a daemon that was started again goes on where it was
    assert world.look(NOW + 91 * MINUTE) == []


def test_a_vault_that_is_away_keeps_what_was_known_of_it(world: World) -> None:
    world.point(NOW)
    world.protect(NOW)
    assert world.look(NOW) == []
    away = Problem("vault.not-found", "it is away")
    assert world.look(NOW + MINUTE, away) == ["opened vault-unreadable"]
    assert world.look(NOW + 3 * DAY, away) == ["opened rpo-missed"]  # nothing came in meanwhile
    world.watch = world.new_watch()
    assert world.look(NOW + 3 * DAY + MINUTE, away) == []  # never opened by this one: nothing is resolved
    assert {alert.finding.rule: alert.state for alert in world.book.alerts()} == {
        "rpo-missed": AlertState.OPEN,
        "vault-unreadable": AlertState.OPEN,
    }
    assert not world.watch.is_well


def test_a_daemon_that_was_away_says_so(world: World) -> None:
    world.point(NOW)
    assert world.look(NOW) == []
    world.watch = world.new_watch()
    assert world.look(NOW + DAY) == ["opened was-silent"]
    assert world.look(NOW + DAY + MINUTE) == []


def test_damage_shortened_retention_and_a_stale_verify_are_found_in_the_vault(world: World) -> None:
    world.point(NOW)
    world.protect(NOW)
    for pack in world.site.objects("main/packs"):
        data = bytearray(pack.read_bytes())
        data[400] ^= 0xFF
        pack.chmod(0o600)
        pack.write_bytes(bytes(data))
    assert world.look(NOW) == []
    assert world.site.vault.verify(now=NOW).damage
    world.site.vault.set_policy("nightly", confirmed=True, retention=RetentionRules(keep_last=1), now=NOW)
    told = world.look(NOW + HOUR)
    assert sorted(told) == ["opened damage-found", "opened retention-shortened"]
    world.point(NOW + 60 * DAY)
    assert "opened verify-stale" in world.look(NOW + 60 * DAY)


def test_a_daily_summary_is_sent_once_a_day(world: World) -> None:
    world.point(NOW)
    for hours in range(0, 48, 3):
        world.look(NOW.replace(hour=0) + hours * HOUR)
    subjects = [each["subject"] for each in world.sent if each["events"] == ["summary.daily"]]
    assert subjects == ["daily summary: 0 jobs, 0 open alerts"] * 2


# --- what holds expiry


def ransomed(world: World) -> None:
    """Twelve quiet days, then a day on which everything is random."""
    for day in range(12):
        world.point(NOW + day * DAY, 65_536 + 64 * 8 * (day % 3))
    world.point(NOW + 12 * DAY, 3 << 20, random_bytes=True)


def test_points_that_look_encrypted_hold_expiry_until_it_is_acknowledged(world: World) -> None:
    ransomed(world)
    world.protect(NOW)
    vault, later = world.site.vault, NOW + 12 * DAY + HOUR
    item = vault.item("web01").id
    before = vault.plan_prune(now=later)
    assert len([each for each in before.decisions if not each.keep]) == 11
    held = held_items(world.book, vault, later, [HOOK])
    assert list(held) == [item]
    plan = vault.plan_prune(now=later, held_items=held)
    assert all(each.keep for each in plan.decisions)
    assert "expiry is held by alert a-" in plan.decisions[0].reasons[0]
    assert vault.prune(plan, confirmed=True).expired == []
    (message,) = world.book.waiting()
    assert json.loads(message.body)["subject"].startswith("critical: point 13 of item 'web01' has changed data")
    # The watch finds the same and tells it no second time.
    assert "opened unusual-churn" not in world.look(later)
    (alert,) = [each for each in world.book.alerts() if each.finding.rule == "unusual-churn"]
    acknowledge(world.book, alert.id, "eve", later)
    assert held_items(world.book, world.site.vault, later) == expiry_held(world.book, world.site.vault.id) == {}
    # Another such point is another alert.
    world.point(later + HOUR, 3 << 20, random_bytes=True)
    assert list(held_items(world.book, world.site.vault, later + HOUR)) == [item]


def test_points_that_were_deleted_are_not_purged_while_expiry_is_held(world: World) -> None:
    ransomed(world)
    world.protect(NOW)
    vault, later = world.site.vault, NOW + 12 * DAY + HOUR
    vault.delete_point("3", now=NOW + 12 * DAY)
    held = held_items(world.book, vault, later)
    much_later = later + 30 * DAY
    assert [label for _, label in vault.plan_prune(now=much_later).purges] == ["3"]
    assert vault.plan_prune(now=much_later, held_items=held).purges == ()
    ruled = vault.plan_prune(RetentionRules(keep_last=1), now=much_later, held_items=held)
    assert all(each.keep for each in ruled.decisions)


def test_where_no_book_can_be_kept_every_sign_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ransomed(world)
    world.protect(NOW)
    world.book.close()
    later = NOW + 12 * DAY + HOUR
    assert len(held_by_alerts(world.site.vault, later)) == 1

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "makedirs", refuse)
    held = held_by_alerts(world.site.vault, later)
    assert next(iter(held.values())).startswith("expiry is held: ")


def test_bounds_of_this_test_are_those_of_the_rules() -> None:
    assert alert_rules.CHURN_SHARE_LEAST * (4 << 20) < 3 << 20


def test_the_audit_log_stands_in_every_message(world: World) -> None:
    world.point(NOW)
    world.protect(NOW)
    world.look(NOW + 49 * HOUR)
    newest = AuditLog(world.state).newest()
    said = [each["audit"] for each in world.sent]
    assert said
    assert all((each["line"], each["hash"]) == newest for each in said)
    Path(world.state, "audit.log").write_bytes(b"x" * 600_000)
    with pytest.raises(BlockVaultError):
        AuditLog(world.state).newest()
    world.watch = world.new_watch()
    assert "opened was-silent" in world.look(NOW + 60 * HOUR)  # it is told all the same
