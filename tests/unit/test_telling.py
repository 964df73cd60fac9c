"""The watch and the sender together, as a daemon has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.receivers import Receiver, until, web_server
from helpers.site import Site

from blockvault.config.settings import AlertSettings, Channel
from blockvault.model.job import Problem
from blockvault.reports.alerts import forget_heartbeat, heartbeat
from blockvault.reports.notify import add_channel
from blockvault.reports.telling import Telling
from blockvault.store.alert_book import AlertBook
from blockvault.store.journal import Journal
from blockvault.vault import Vault

NOW = datetime(2026, 11, 20, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
AWAY = Problem("vault.not-found", "it is away")


@dataclass(frozen=True)
class View:
    name: str
    vault_id: str
    path: str
    items: tuple[()] = ()
    problem: Problem | None = None


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    with web_server() as made:
        add_channel(str(site.state), Channel(name="hook", kind="webhook", url=made.url), NOW)
        add_channel(str(site.state), Channel(name="beep", kind="ping", url=f"{made.url}/u"), NOW)
        yield made


def telling(site: Site, said: list[str], clock: Clock, **options: bool) -> Telling:
    def open_vault(name: str) -> Vault:
        site.close()
        return Vault.open(name, state_dir=str(site.state))

    return Telling(str(site.state), open_vault, AlertSettings(), said.append, clock=clock, **options)


def view(site: Site, problem: Problem | None = None) -> View:
    return View("default", site.vault.id, site.vault.path, problem=problem)


def subjects(receiver: Receiver) -> list[str]:
    return [json.loads(each.body)["subject"] for each in receiver.requests if each.path == "/"]


def pings(receiver: Receiver) -> list[str]:
    return [each.path for each in receiver.requests if each.path != "/"]


def test_what_is_wrong_reaches_people(site: Site, receiver: Receiver) -> None:
    clock, said = Clock(), list[str]()
    with Journal(str(site.state)) as journal, telling(site, said, clock) as daemon:
        daemon.look(journal, [view(site)], clock.now)
        until(lambda: len(pings(receiver)) >= 1)
        clock.now += MINUTE
        daemon.look(journal, [view(site, AWAY)], clock.now)
        until(lambda: len(subjects(receiver)) == 1 and "/u/fail" in pings(receiver))
        for _ in range(5):  # a tick a second: no more is looked at
            daemon.look(journal, [view(site)], clock.now + timedelta(seconds=30))
        assert heartbeat(str(site.state)) == (clock.now, 900.0)
    assert subjects(receiver) == ["critical: vault 'default' cannot be read: it is away"]
    assert said == []
    forget_heartbeat(str(site.state))
    forget_heartbeat(str(site.state))
    assert heartbeat(str(site.state)) is None


def test_a_timers_run_sends_before_it_ends(site: Site, receiver: Receiver) -> None:
    clock, said = Clock(), list[str]()
    with Journal(str(site.state)) as journal, telling(site, said, clock, once=True) as run:
        run.look(journal, [view(site, AWAY)], clock.now)
    assert (len(subjects(receiver)), pings(receiver)) == (1, ["/u/fail"])


def test_what_cannot_be_told_ends_no_daemon(site: Site) -> None:
    clock, said = Clock(), list[str]()
    state = Path(site.state)
    (state / "notify.toml").write_text("rubbish")
    (state / "alerts").write_text("a file where a folder should be")
    with Journal(str(state)) as journal, telling(site, said, clock) as daemon:
        for _ in range(3):
            daemon.look(journal, [view(site, AWAY)], clock.now)
            clock.now += MINUTE
        assert [text.split(":")[0] for text in said] == ["nobody is told", "no alerts"]  # once each
        (state / "alerts").unlink()
        (state / "notify.toml").unlink()
        daemon.look(journal, [view(site, AWAY)], clock.now)
    with AlertBook(str(state)) as book:
        assert [alert.finding.rule for alert in book.alerts()] == ["vault-unreadable"]
