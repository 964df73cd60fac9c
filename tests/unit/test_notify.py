"""Messages through channels, to real servers that refuse, hang, cut the connection or lie."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default as default_policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from helpers.receivers import Receiver, certificate, free_port, until, web_server

from blockvault.config.settings import Channel
from blockvault.errors import AlreadyExistsError, BlockVaultError, InvalidInputError, NotFoundError, TransportError
from blockvault.model.alert import Alert, Finding, Outgoing, Severity
from blockvault.reports import notify
from blockvault.reports.channels import Cutter, deliver, ping, sign, verify_signature
from blockvault.reports.messages import Event, Speaker, check_message, messages, plain_text, summary_messages
from blockvault.reports.notify import Sender, add_channel, known_channels, load_channels, remove_channel, retry_after
from blockvault.store.alert_book import AlertBook

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SPEAKER = Speaker("nas", (7, "ab" * 32))
FINDING = Finding("rpo-missed", "i", Severity.CRITICAL, "no point of 'web01'", "for 3 days", "look", item="web01")
SECRET = b"a key that only the two know"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with web_server() as made:
        yield made


@pytest.fixture
def book(tmp_path: Path) -> Iterator[AlertBook]:
    with AlertBook(str(tmp_path / "state")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def hook(receiver: Receiver, tmp_path: Path) -> Channel:
    (tmp_path / "key").write_bytes(SECRET + b"\n")
    return Channel(
        name="hook", kind="webhook", url=f"{receiver.url}/in?token=geheim", secret_file=str(tmp_path / "key")
    )


def message(channel: Channel, at: datetime = NOW) -> Outgoing:
    alert = Alert(FINDING, NOW, NOW, told=Severity.CRITICAL)
    (made,) = messages([channel], [Event("opened", alert)], SPEAKER, at)
    return made


def failure(channel: Channel, seconds: float = 10.0) -> BlockVaultError:
    with pytest.raises(BlockVaultError) as caught:
        deliver(channel, message(channel), NOW, Cutter(seconds))
    told = f"{caught.value.message} {caught.value.why} {caught.value.do}"
    assert "geheim" not in told
    assert "token" not in told
    return caught.value


# --- webhook


def test_a_webhook_is_signed_and_says_what_is_wrong(hook: Channel, receiver: Receiver) -> None:
    sent = message(hook)
    deliver(hook, sent, NOW)
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", "/in?token=geheim")
    assert request.headers["BlockVault-Delivery"] == sent.id
    document = json.loads(request.body)
    assert document["schema"] == "blockvault.notification/1"
    assert document["alerts"][0]["text"] == FINDING.text
    assert document["audit"] == {"line": 7, "hash": "ab" * 32}
    header, now = request.headers["BlockVault-Signature"], NOW.timestamp()
    assert verify_signature(SECRET, header, request.body, now)
    assert verify_signature(SECRET, header, request.body, now + 299)
    assert not verify_signature(SECRET, header, request.body, now + 301)  # somebody plays it again
    assert not verify_signature(SECRET, header, request.body, now - 301)
    assert not verify_signature(b"another key", header, request.body, now)
    assert not verify_signature(SECRET, header, request.body.replace(b"web01", b"web02"), now)
    later = sign(SECRET, request.body, int(now) + 1000)
    moved = later.split(",")[0] + "," + header.split(",")[1]
    assert not verify_signature(SECRET, moved, request.body, now + 1000)  # the time is signed too
    for rubbish in ("", "t=,v1=", "v1=00", "t=x,v1=00", "t=1"):
        assert not verify_signature(SECRET, rubbish, request.body, now)


def test_openssl_makes_the_same_signature(tmp_path: Path) -> None:
    body = b'{"a": 1}'
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", SECRET.decode(), "-hex"],
        input=b"1764360123." + body,
        capture_output=True,
        check=True,
    )
    assert sign(SECRET, body, 1764360123) == f"t=1764360123,v1={done.stdout.decode().split()[-1]}"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (500, "the receiver answered 500 Internal Server Error"),
        (404, "the receiver answered 404 Not Found"),
        ("redirect", "the receiver answered 302 Found"),
        ("cut", "the connection failed (RemoteDisconnected)"),
    ],
)
def test_a_receiver_that_does_not_take_it(hook: Channel, receiver: Receiver, step: int | str, why: str) -> None:
    receiver.plan = [step]
    assert failure(hook).why == why
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("step", ["hang", "drip"])
def test_a_receiver_that_takes_for_ever_is_cut_off(hook: Channel, receiver: Receiver, step: str) -> None:
    receiver.plan = [step]
    assert failure(hook, 0.3).why in ("it took more than 0.3 s", "it did not answer in time")


def test_a_yes_is_a_yes_also_where_the_connection_breaks_after_it(hook: Channel, receiver: Receiver) -> None:
    receiver.plan = ["yes, then cut"]
    deliver(hook, message(hook), NOW)


def test_nobody_there(hook: Channel) -> None:
    assert failure(replace(hook, url=f"http://127.0.0.1:{free_port()}/geheim")).why == "nobody listens there"
    assert failure(replace(hook, url="http://token.invalid/geheim")).why == "there is no host of that name"


def test_certificates_are_verified(tmp_path: Path, hook: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate(tmp_path)
    with web_server(made.context) as receiver:
        secure = replace(hook, url=f"{receiver.url}/geheim")
        assert (failure(secure).why or "").startswith("its certificate is not valid")
        assert receiver.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
        deliver(secure, message(secure), NOW)
        assert len(receiver.requests) == 1


def test_proxies_of_the_environment_are_used_and_left_out(
    hook: Channel, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://me:pw@"))
        secure = replace(hook, url="https://far.example/geheim")
        assert isinstance(failure(secure), TransportError)
        assert [(each.method, each.path) for each in proxy.requests] == [("CONNECT", "far.example:443")]
        assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic bWU6cHc="
        monkeypatch.setenv("http_proxy", proxy.url)
        deliver(hook, message(hook), NOW)
        assert proxy.requests[1].path == hook.url.replace("127.0.0.1:", "127.0.0.1:")
        assert receiver.requests == []
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        deliver(hook, message(hook), NOW)
        assert len(receiver.requests) == 1


def test_a_password_in_the_address_goes_into_a_header(hook: Channel, receiver: Receiver) -> None:
    deliver(replace(hook, url=receiver.url.replace("http://", "http://me:p%40ss@")), message(hook), NOW)
    assert receiver.requests[0].headers["Authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize(
    "changes",
    [
        {"url": ""},
        {"url": "ftp://token/geheim"},
        {"url": "https:///geheim"},
        {"url": "http://token:99999999/geheim"},
        {"url": "http://token/geh eim"},
        {"url": "http://[token/geheim"},
        {"secret_file": "/nonexistent/key"},
    ],
)
def test_a_channel_that_cannot_be(hook: Channel, changes: dict[str, Any]) -> None:
    assert failure(replace(hook, **changes)).kind == "notify.bad-channel"


# --- ping


def test_a_ping_says_alive_start_and_fail(receiver: Receiver) -> None:
    channel = Channel(name="beep", kind="ping", url=f"{receiver.url}/uuid/?create=1")
    ping(channel, "", "")
    ping(channel, "start", "")
    deliver(channel, message(channel), NOW)
    assert [each.path for each in receiver.requests] == [
        "/uuid?create=1",
        "/uuid/start?create=1",
        "/uuid/fail?create=1",
    ]
    assert b"no point of 'web01'" in receiver.requests[2].body


# --- mail


class Mailbox:
    """A mail server's handler: what came in, and what it says to a recipient."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []
        self.refuse = ""

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, envelope.content))
        return "250 taken"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def mail_channel(controller: Controller, **changes: Any) -> Channel:
    made = Channel(
        name="mail",
        kind="smtp",
        to=("eve@example.org", "root@example.org"),
        sender="nas@example.org",
        server=f"127.0.0.1:{controller.port}",
    )
    return replace(made, **changes)


def test_mail_has_the_three_lines_of_each_alert(mailbox: Mailbox) -> None:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        channel = mail_channel(controller)
        deliver(channel, message(channel), NOW)
        mailbox.refuse = "550 no geheim"
        assert failure(channel).why == "the mail server takes no mail for these addresses"
    finally:
        controller.stop()
    ((to, data),) = mailbox.mails
    mail = message_from_bytes(data, policy=default_policy)
    assert to == ["eve@example.org", "root@example.org"]
    assert mail["Subject"] == "[BlockVault] critical: no point of 'web01'"
    text = mail.get_content()
    for line in ("critical: no point of 'web01'   [a-", "why:      for 3 days", "do:       look", "hash " + "ab" * 32):
        assert line in text
    assert failure(channel).why == "nobody listens there"


def test_a_password_goes_over_tls_only(tmp_path: Path, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("geheim\n")
    made = certificate(tmp_path)
    seen: list[tuple[bytes, bytes]] = []

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"geheim", handled=False)

    class Secure(Controller):
        def factory(self) -> SMTP:
            return SMTP(self.handler, tls_context=made.context, authenticator=check, auth_require_tls=True)

    plain = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    secure = Secure(mailbox, hostname="127.0.0.1", port=free_port())
    login = {"user": "nas", "secret_file": str(tmp_path / "password")}
    for controller in (plain, secure):
        controller.start()
    try:
        assert "offers no TLS" in (failure(mail_channel(plain, **login)).why or "")
        channel = mail_channel(secure, **login)
        assert (failure(channel).why or "").startswith("its certificate is not valid")
        assert seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
        deliver(channel, message(channel), NOW)
        assert (seen, len(mailbox.mails)) == ([(b"nas", b"geheim")], 1)
        (tmp_path / "password").write_text("wrong")
        assert failure(channel).why == "the mail server answered 535"
    finally:
        for controller in (plain, secure):
            controller.stop()


def test_a_name_cannot_write_headers_or_lines(mailbox: Mailbox) -> None:
    evil = replace(FINDING, text="x\r\nBcc: all@example.org\r\n\r\nhello \x1b[2J\u202e")
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        channel = mail_channel(controller)
        alert = Alert(evil, NOW, NOW)
        (made,) = messages([channel], [Event("opened", alert)], SPEAKER, NOW)
        deliver(channel, made, NOW)
    finally:
        controller.stop()
    mail = message_from_bytes(mailbox.mails[0][1], policy=default_policy)
    assert mail["Bcc"] is None
    assert "x??Bcc: all@example.org????hello ?[2J?" in mail.get_content()


@pytest.mark.parametrize("server", ["", "host:x", "host:0", ":25", "host:70000"])
def test_a_mail_server_that_cannot_be(server: str) -> None:
    channel = Channel(name="mail", kind="smtp", to=("a@b",), sender="c@d", server=server)
    with pytest.raises(InvalidInputError):
        deliver(channel, message(channel), NOW)


def test_apprise_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert failure(Channel(name="chat", kind="apprise", url="json://token/geheim")).kind == "notify.no-apprise"


# --- the queue


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_what_could_not_be_sent_is_sent_later_with_the_same_id(
    hook: Channel, receiver: Receiver, book: AlertBook
) -> None:
    clock = Clock()
    sender = Sender(book, [hook], clock)
    first, second = message(hook), message(hook, NOW + MINUTE)
    book.post([first, second])
    receiver.plan = [500, "cut"]
    assert sender.run_once() == 0
    assert [(each.tries, each.problem) for each in book.waiting()] == [
        (1, "the receiver answered 500 Internal Server Error"),
        (0, ""),
    ]
    assert sender.run_once() == 0
    assert len(receiver.requests) == 1  # nothing is tried before its time
    clock.now += MINUTE
    assert sender.run_once() == 0
    clock.now += 2 * MINUTE
    assert sender.run_once() == 2
    assert [each.headers["BlockVault-Delivery"] for each in receiver.requests] == [
        first.id,
        first.id,
        first.id,
        second.id,
    ]
    times = [each.headers["BlockVault-Signature"].split(",")[0] for each in receiver.requests]
    assert times == [f"t={int((NOW + n * MINUTE).timestamp())}" for n in (0, 1, 3, 3)]  # each try has its own
    assert book.waiting() == []


def test_tries_lie_further_and_further_apart() -> None:
    minutes = [retry_after(tries) / MINUTE for tries in range(1, 13)]
    assert minutes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]
    assert retry_after(10_000) == timedelta(hours=6)


def test_a_message_is_given_up_after_a_week_and_that_is_said(
    hook: Channel, receiver: Receiver, book: AlertBook
) -> None:
    clock, said = Clock(), list[str]()
    sender = Sender(book, [hook], clock, said.append)
    book.post([message(hook)])
    receiver.plan = [500] * 1000
    while book.waiting():
        sender.run_once()
        clock.now += timedelta(minutes=30)
        assert clock.now < NOW + timedelta(days=8)
    assert clock.now >= NOW + timedelta(days=7)
    assert said == ["channel 'hook': a message of 2026-11-20 12:00 was given up"]
    assert 30 < len(receiver.requests) < 45


def test_a_clock_that_was_set_back_holds_nothing_back(hook: Channel, receiver: Receiver, book: AlertBook) -> None:
    clock = Clock()
    sender = Sender(book, [hook], clock)
    book.post([message(hook)])
    receiver.plan = [500]
    sender.run_once()
    clock.now -= timedelta(days=1)
    assert sender.run_once() == 1


def test_what_the_receiver_took_is_not_sent_again_after_a_crash(
    hook: Channel, receiver: Receiver, tmp_path: Path
) -> None:
    """Killed at any step of sending: after the commit never again; between the yes and the commit with the same id."""
    state = tmp_path / "other"
    with AlertBook(str(state)) as book:
        book.post([message(hook), message(hook, NOW + MINUTE)])
    script = (
        "import os, sys\n"
        "from datetime import UTC, datetime\n"
        "from blockvault import failpoints\n"
        "from blockvault.config.settings import Channel\n"
        "from blockvault.reports.notify import Sender\n"
        "from blockvault.store.alert_book import AlertBook\n"
        "state, url, secret, die_at = sys.argv[1:]\n"
        "commits = 0\n"
        "def hook(name):\n"
        "    global commits\n"
        "    commits += name == 'environment.commit'\n"
        "    if commits == int(die_at):\n"
        "        os._exit(9)\n"
        "channel = Channel(name='hook', kind='webhook', url=url, secret_file=secret)\n"
        "with AlertBook(state) as book:\n"
        "    failpoints.set_hook(hook)\n"
        "    Sender(book, [channel], lambda: datetime(2026, 11, 20, 13, tzinfo=UTC)).run_once()\n"
    )

    def run(die_at: int) -> int:
        command = [sys.executable, "-c", script, str(state), hook.url, hook.secret_file, str(die_at)]
        return subprocess.run(command, check=False).returncode

    def ids() -> list[str]:
        return [each.headers["BlockVault-Delivery"] for each in receiver.requests]

    assert run(2) == 9  # the first was taken and noted; the second was taken, and the note was cut off
    assert len(set(ids())) == len(ids()) == 2
    assert run(0) == 0
    assert len(ids()) == 3
    assert ids()[2] == ids()[1]  # the receiver tells by the id; the first came once
    with AlertBook(str(state)) as book:
        assert book.waiting() == []
    assert run(0) == 0
    assert len(ids()) == 3


def test_a_receiver_that_hangs_holds_up_nobody_and_no_stop(hook: Channel, receiver: Receiver, book: AlertBook) -> None:
    with web_server() as other:
        well = replace(hook, name="well", url=other.url)
        receiver.plan = ["hang"]
        sender = Sender(book, [hook, well], Clock())
        book.post([message(hook), message(well)])
        sender.start()
        until(lambda: len(other.requests) == 1 and len(receiver.requests) == 1)
        until(lambda: [each.channel for each in book.waiting()] == ["hook"])
        book.post([message(well, NOW + MINUTE)])
        sender.wake()
        until(lambda: len(other.requests) == 2)
        sender.stop()
        assert not [each for each in threading.enumerate() if each.name.startswith("notify ")]
    (left,) = book.waiting()
    assert (left.channel, left.tries) == ("hook", 0)  # it was cut off by us: it waits as before


def settle(sender: Sender) -> None:
    """Wait until the thread has looked once more, and waits again."""
    line = sender._lines[0]
    for _ in range(2):
        sender.wake()
        until(lambda: not line.awake.is_set())


def test_alive_is_pinged_while_somebody_looks_and_nothing_is_critical(receiver: Receiver, book: AlertBook) -> None:
    clock = Clock()
    sender = Sender(book, [Channel(name="beep", kind="ping", url=f"{receiver.url}/u")], clock)
    paths = lambda: [each.path for each in receiver.requests]  # noqa: E731 - read again each time
    sender.start()
    until(lambda: paths() == ["/u/start"])
    try:
        sender.alive(well=True)
        sender.wake()
        until(lambda: paths() == ["/u/start", "/u"])
        steps = [(4, True, False), (2, True, True), (6, False, False), (6, None, False), (1, True, True)]
        count = 2
        for minutes, well, pinged in steps:
            clock.now += minutes * MINUTE
            if well is not None:
                sender.alive(well=well)
            sender.wake()
            count += pinged
            until(lambda wanted=count: len(paths()) == wanted)
            settle(sender)
            assert paths() == ["/u/start", *["/u"] * (count - 1)]
    finally:
        sender.stop()


def test_what_a_library_raises_ends_no_thread(hook: Channel, book: AlertBook) -> None:
    def send(*_: object) -> None:
        raise RuntimeError("geheim")

    book.post([message(hook)])
    assert Sender(book, [hook], Clock(), send=send).run_once() == 0
    assert [each.problem for each in book.waiting()] == ["an unforeseen error (RuntimeError)"]


# --- the channels


def test_channels_are_written_for_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = str(tmp_path / "state")
    made = Channel(
        name='a "b" \\ ü', kind="webhook", url="https://h/geheim", secret_file="/k", events=("job.failed", "alert.info")
    )
    mail = Channel(name="mail", kind="smtp", to=("a@b", "c@d"), sender="e@f", server="h:25")
    add_channel(state, made, NOW)
    add_channel(state, mail, NOW)
    assert (tmp_path / "state" / "notify.toml").stat().st_mode & 0o777 == 0o600
    assert load_channels(state) == [made, mail]
    with pytest.raises(AlreadyExistsError):
        add_channel(state, replace(made, kind="ping"), NOW)
    with pytest.raises(InvalidInputError):
        add_channel(state, Channel(name="x", kind="smtp"), NOW)
    config = tmp_path / "config.toml"
    config.write_text("version = 1\n[[notify]]\nname = 'beep'\nkind = 'ping'\nurl = 'https://h/x'\n[[notify]]\n"
                      "name = 'half'\nkind = 'smtp'\n")  # fmt: skip
    monkeypatch.setenv("BLOCKVAULT_CONFIG", str(config))
    monkeypatch.setenv("BLOCKVAULT_STATE_DIR", state)
    known = {each.channel.name: each for each in known_channels(state)}
    assert known["beep"].source == f"{config}:2"
    assert known["half"].problem == "mail needs 'server'"
    assert [each.name for each in load_channels(state)] == [made.name, "beep", "mail"]
    with pytest.raises(InvalidInputError):
        remove_channel(state, "beep", NOW)
    assert remove_channel(state, "mail", NOW) == mail
    with pytest.raises(NotFoundError):
        remove_channel(state, "mail", NOW)
    assert [each.channel.name for each in known_channels(str(tmp_path / "another"))] == []  # a world of its own
    Path(notify.channels_path(state)).write_text("rubbish = [")
    with pytest.raises(InvalidInputError):
        load_channels(state)


# --- texts


def test_a_summary_and_a_test_in_plain_text() -> None:
    channel = Channel(name="mail", kind="smtp")
    summary = {
        "jobs": {"completed": 9, "failed": 1},
        "vaults": [{"vault": "site", "free_bytes": 1, "text": "12 points, 1 B free"}],
        "open_alerts": [{"alert": "a-1", "severity": "warning", "state": "open", "text": "it failed"}],
    }
    (made,) = summary_messages([channel, Channel(name="beep", kind="ping")], summary, SPEAKER, NOW)
    document = json.loads(made.body)
    assert document["subject"] == "daily summary: 10 jobs, 1 of them failed or with a warning, 1 open alert"
    text = plain_text(document)
    assert "jobs of the last 24 hours: 9 completed, 1 failed" in text
    assert "vault 'site': 12 points, 1 B free" in text
    assert "  warning: it failed" in text
    assert "nothing is wrong" in plain_text(json.loads(check_message(channel, SPEAKER, NOW).body))
