"""`alert`, `notify` and `audit` as users run them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from helpers.program import Program
from helpers.receivers import web_server

from blockvault.clock import utc_now
from blockvault.model.alert import Finding, Outgoing, Severity
from blockvault.reports.alerts import beat, fold
from blockvault.reports.channels import verify_signature
from blockvault.reports.messages import Speaker
from blockvault.store.alert_book import AlertBook

pytestmark = pytest.mark.no_bytes

FINDING = Finding(
    "unusual-churn",
    "i/9",
    Severity.CRITICAL,
    "point 9 of item 'web01' has changed data that does not compress",
    "100% of its size",
    "look into the guest",
    item="web01",
    item_id="i",
    stays=True,
    holds_expiry=True,
)


def opened(program: Program) -> None:
    """An alert is open on the program's host."""
    with AlertBook(str(program.state)) as book:
        fold(book, {FINDING.key: FINDING}, lambda _: True, [], Speaker("nas", (0, "")), utc_now())


def test_an_alert_is_listed_and_acknowledged(program: Program) -> None:
    ended = program.run("alert", "list", code=0)
    assert ended.err == "note: no open alerts\n"
    assert not (program.state / "alerts").exists()  # looking makes nothing
    opened(program)
    ended = program.run("alert", "list", code=3)
    lines = ended.out.splitlines()
    assert lines[0].startswith("critical: point 9 of item 'web01' has changed data that does not compress   [a-")
    assert [line.split()[0] for line in lines[1:4]] == ["why:", "do:", "since:"]
    (alert,) = program.run("alert", "list", "--json", code=3).document["alerts"]
    assert (alert["state"], alert["severity"], alert["holds_expiry"]) == ("open", "critical", True)
    ended = program.run("alert", "ack", alert["alert"], code=0)
    assert ended.out == f"alert {alert['alert']} is acknowledged; points of item 'web01' may expire again\n"
    (alert,) = program.run("alert", "list", "--json", code=0).document["alerts"]
    assert (alert["state"], alert["holds_expiry"]) == ("acknowledged", False)
    assert program.run("alert", "ack", "a-00000000", code=13).kind == "alert.not-found"
    assert [act["act"] for act in acts(program)] == ["alert.ack"]


def test_silence_is_an_alert_though_nobody_is_there_to_write_it(program: Program) -> None:
    program.state.mkdir()
    beat(str(program.state), utc_now())
    program.run("alert", "list", code=0)
    beat(str(program.state), utc_now() - timedelta(days=2))
    ended = program.run("alert", "list", code=3)
    assert ended.out.startswith("critical: nothing has been looked at for 2 d: no daemon runs")
    assert "warn  daemon: nothing has been looked at for 2 d" in program.run("doctor").out


def acts(program: Program) -> list[dict[str, object]]:
    found: list[dict[str, object]] = program.run("audit", "show", "--json", code=0).document["acts"]
    return found


def test_channels_are_added_listed_tested_and_removed(program: Program) -> None:
    key = program.folder / "key"
    key.write_text("only we know\n")
    with web_server() as receiver:
        url = program.folder / "url"
        url.write_text(f"{receiver.url}/geheim\n")
        program.run("notify", "add", "hook", "--kind", "webhook", "--url-file", url, "--secret-file", key, code=0)
        assert program.run("notify", "add", "hook", "--kind", "webhook", "--url-file", url).kind == "notify.exists"
        ended = program.run("notify", "test", "hook", code=0)
        assert ended.out == "channel 'hook' has taken a message\n"
        (request,) = receiver.requests
        now = utc_now().timestamp()
        assert verify_signature(b"only we know", request.headers["BlockVault-Signature"], request.body, now)
        assert json.loads(request.body)["events"] == ["test"]
        receiver.plan = [500]
        ended = program.run("notify", "test", "hook", code=1)
        assert (ended.kind, "answered 500" in ended.err) == ("notify.not-sent", True)
    with AlertBook(str(program.state)) as book:
        book.post([Outgoing("1-x", "hook", utc_now(), "{}", problem="the receiver answered 500")])
    shown = program.run("notify", "list", code=3)
    document = program.run("notify", "list", "--json", code=3)
    (channel,) = document.document["channels"]
    assert (channel["kind"], channel["signed"], channel["waiting"]) == ("webhook", True, 1)
    everything = shown.out + shown.err + document.out + program.run("audit", "show", "--json").out
    assert "geheim" not in everything
    assert "only we know" not in everything
    assert program.run("notify", "remove", "hook", code=2).kind == "input.needs-yes"
    program.run("notify", "remove", "hook", "--dry-run", code=0)
    program.run("notify", "remove", "hook", "--yes", code=0)
    assert program.run("notify", "list", "--json", code=0).document["channels"] == []
    with AlertBook(str(program.state)) as book:
        assert book.waiting() == []
    assert program.run("notify", "test", "hook", code=13).kind == "notify.not-found"


def test_what_cannot_be_told_of_is_no_event(program: Program) -> None:
    ended = program.run("notify", "add", "x", "--kind", "ping", "--url", "https://h/u", "--event", "alert.big", code=2)
    assert "there is no event 'alert.big'" in ended.err
    ended = program.run("notify", "add", "x", "--kind", "smtp", "--server", "h:25", code=2)
    assert ended.kind == "notify.bad-channel"
    assert not (program.state / "notify.toml").exists()


def test_the_audit_log_is_shown_and_verified(program: Program, disk: Path) -> None:
    assert program.run("audit", "show", code=0).err == "note: nothing was done yet that is noted\n"
    program.run("snapshot", disk, code=0)
    program.run("point", "hold", "1", "--reason", "the only one", code=0)
    program.run("point", "delete", "1", "--yes", code=2)
    program.run("point", "unhold", "1", code=0)
    shown = program.run("audit", "show", code=0).out
    assert "the only one" in shown
    assert [(act["act"], act["outcome"]) for act in acts(program)] == [
        ("point.hold", "done"),
        ("point.delete", "point.held"),
        ("point.unhold", "done"),
    ]
    assert len(program.run("audit", "show", "--act", "point.hold", "--json", code=0).document["acts"]) == 1
    newest = program.run("audit", "verify", "--json", code=0).document["newest"]
    program.run("audit", "verify", "--expect", newest, code=0)
    log = program.state / "audit.log"
    whole = log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # somebody cuts the end off
    program.run("audit", "verify", code=0)
    ended = program.run("audit", "verify", "--expect", newest[:16], code=4)
    assert "the end was cut off" in ended.out
    log.write_bytes(whole.replace(b"the only one", b"another one!"))
    ended = program.run("audit", "verify", code=4)
    assert "line 1 of the file: it was changed after it was written" in ended.out
    program.run("audit", "show", code=4)
    assert program.run("audit", "verify", "--expect", "what", code=2).kind == "audit.bad-hash"


def test_a_hold_of_expiry_is_told_by_prune(program: Program, disk: Path, make_disk: Callable[[str], Path]) -> None:
    program.run("snapshot", disk, "--no-keep", code=0)
    program.run("protect", "disk", "--policy", "default", code=0)
    (item,) = program.run("item", "list", "--json", code=0).document["items"]
    vault = program.run("vault", "show", "--json", code=0).document
    held = Finding(**{**fields_of(FINDING), "item_id": item["id"], "vault_id": vault["id"]})
    with AlertBook(str(program.state)) as book:
        fold(book, {held.key: held}, lambda _: True, [], Speaker("nas", (0, "")), utc_now())
    ended = program.run("prune", "--keep-last", "1", "--dry-run", "--explain", code=0)
    assert "expiry is held by alert a-" in ended.out
    ended = program.run("prune", "--keep-last", "1", code=3)
    assert "warning: nothing was ended of 1 held item: see `blockvault alert list`" in ended.err


def fields_of(finding: Finding) -> dict[str, object]:
    return {name: getattr(finding, name) for name in finding.__dataclass_fields__}


@pytest.mark.parametrize("words", [("alert", "list"), ("notify", "list"), ("audit", "show"), ("audit", "verify")])
def test_looking_makes_no_state(program: Program, words: tuple[str, str]) -> None:
    program.run(*words, code=0)
    assert not program.state.exists()
