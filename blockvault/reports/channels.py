"""Sending one message through one channel: a signed webhook, mail, a ping, apprise. It arrives, or it is said why not.

A webhook gets the message as its body, and these headers:

    BlockVault-Delivery: 1764360000000-9f2c41aa        the same at every try: a repetition is told by it
    BlockVault-Signature: t=1764360123,v1=<64 hex>     HMAC-SHA256 of "1764360123." and the body, by the channel's key

The time is that of the try. A receiver checks the HMAC, refuses times more than `REPLAY_SECONDS` from its own, and
remembers deliveries for that long: `verify_signature` does the first two.

Invariants:
- No more time is spent than the limit, whatever the other side does: a timer cuts the connection.
- Certificates are verified, redirects are not followed, a password goes over TLS only.
- An error never holds an address, a password or a key: addresses of channels are secrets themselves.
- A status of 2xx is a yes, also where the connection breaks after it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import smtplib
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from blockvault.errors import BlockVaultError, InvalidInputError, TransportError, UnsupportedError
from blockvault.reports.messages import is_failure, plain, plain_text

if TYPE_CHECKING:
    from blockvault.config.settings import Channel
    from blockvault.model.alert import Outgoing

LIMIT_SECONDS = 30.0
REPLAY_SECONDS = 300
ANSWER_BYTES_MAX = 64 << 10
SECRET_BYTES_MAX = 4096
SIGNATURE_HEADER = "BlockVault-Signature"
DELIVERY_HEADER = "BlockVault-Delivery"
PING_BODY_MAX = 10_000
AGENT = "BlockVault"


class Cutter:
    """Ends a connection when its time is over, or when somebody says so."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.limit_seconds = limit_seconds
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.is_cut = False

    def cut(self) -> None:
        """End what is open now, and all that is opened later."""
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def watch(self, connection: socket.socket | None) -> None:
        """The connection that is open now."""
        with self._lock:
            self._socket = connection
            if self.is_cut and connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """A try: cut when its time is over; what that breaks is told as such."""
        timer = threading.Timer(self.limit_seconds, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except BlockVaultError:
            raise
        except (OSError, http.client.HTTPException, smtplib.SMTPException, ValueError) as error:
            if self.is_cut:
                raise _not_sent(f"it took more than {self.limit_seconds:g} s") from None
            raise _not_sent(_reason(error)) from None
        finally:
            timer.cancel()
            self.watch(None)


def deliver(channel: Channel, message: Outgoing, now: datetime, cutter: Cutter | None = None) -> None:
    """Send a message. Returns when the receiver has it.

    Raises:
        TransportError: it did not arrive (`notify.not-sent`): try again later.
        InvalidInputError: the channel cannot be used as it is set (`notify.bad-channel`).
        UnsupportedError: it needs what is not installed (`notify.no-apprise`).
    """
    check_channel(channel)
    cutter = cutter or Cutter()
    match channel.kind:
        case "webhook":
            _webhook(channel, message, now, cutter)
        case "smtp":
            _mail(channel, message, now, cutter)
        case "ping":
            document = json.loads(message.body)
            ping(channel, "fail" if is_failure(document) else "log", plain_text(document), cutter)
        case "apprise":
            _apprise(channel, message)


def check_channel(channel: Channel) -> None:
    """Raise `InvalidInputError` (`notify.bad-channel`) for what is missing or cannot be."""
    if channel.kind in ("webhook", "ping"):
        _check_address(channel)
    elif channel.kind == "smtp":
        for name, value in (("server", channel.server), ("to", channel.to), ("from", channel.sender)):
            if not value:
                raise _bad(channel, f"mail needs '{name}'")
        _host_and_port(channel)
        if channel.user and not channel.secret_file:
            raise _bad(channel, f"'{channel.user}' cannot log in without secret_file, the file with the password")
    elif channel.kind == "apprise":
        if not channel.url:
            raise _bad(channel, "apprise needs 'url'")
    else:
        raise _bad(channel, f"there is no kind '{channel.kind}'")


def _check_address(channel: Channel) -> None:
    try:
        parts = urlsplit(channel.url)
        _ = parts.port
    except ValueError:
        raise _bad(channel, "its url is none") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _bad(channel, "its url must begin with https:// (or http://) and name a host")
    if not channel.url.isascii() or any(letter <= " " or letter == "\x7f" for letter in channel.url):
        raise _bad(channel, "its url must be written in ASCII without spaces, others as %XX")


# --- webhook and ping ------------------------------------------------------------------------------------------------


def sign(secret: bytes, body: bytes, at: int) -> str:
    """The value of the signature's header."""
    return f"t={at},v1={hmac.new(secret, f'{at}.'.encode() + body, hashlib.sha256).hexdigest()}"


def verify_signature(
    secret: bytes, header: str, body: bytes, now: float, *, window_seconds: int = REPLAY_SECONDS
) -> bool:
    """Whether a webhook's body came from who has the secret, of late. What a receiver written in Python may use."""
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    try:
        at = int(fields["t"])
        given = fields["v1"]
    except (KeyError, ValueError):
        return False
    right = sign(secret, body, at).partition(",v1=")[2]
    return hmac.compare_digest(right.encode(), given.encode()) and abs(now - at) <= window_seconds


def _webhook(channel: Channel, message: Outgoing, now: datetime, cutter: Cutter) -> None:
    body = message.body.encode()
    headers = {"Content-Type": "application/json", DELIVERY_HEADER: message.id}
    if channel.secret_file:
        headers[SIGNATURE_HEADER] = sign(_secret(channel), body, int(now.timestamp()))
    _post(channel.url, body, headers, cutter)


def ping(channel: Channel, what: str, text: str, cutter: Cutter | None = None) -> None:
    """Ping a healthchecks-style address: `start`, `fail`, `log`, or "" for alive. Raises as `deliver`."""
    check_channel(channel)
    parts = urlsplit(channel.url)
    path = parts.path.rstrip("/") + (f"/{what}" if what else "")
    body = text.encode("utf-8", "replace")[:PING_BODY_MAX]
    _post(parts._replace(path=path).geturl(), body, {"Content-Type": "text/plain; charset=utf-8"}, cutter or Cutter())


def _post(url: str, body: bytes, headers: dict[str, str], cutter: Cutter) -> None:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"User-Agent": AGENT, **headers}
    if parts.username is not None:
        headers["Authorization"] = _basic(parts.username, parts.password)
    with cutter.limited():
        connection, target = _connection(host, port, target, headers, secure=secure, seconds=cutter.limit_seconds)
        try:
            connection.connect()
            cutter.watch(connection.sock)
            connection.request("POST", target, body, headers)
            with contextlib.closing(connection.getresponse()) as answer:
                if not 200 <= answer.status < 300:
                    told = f"the receiver answered {answer.status} {plain(answer.reason or '')}"
                    raise _not_sent(told[:200].rstrip())
                with contextlib.suppress(OSError, http.client.HTTPException):
                    answer.read(ANSWER_BYTES_MAX)
        finally:
            connection.close()


def _connection(
    host: str, port: int, target: str, headers: dict[str, str], *, secure: bool, seconds: float
) -> tuple[http.client.HTTPConnection, str]:
    """A connection to the host, through the proxy that the environment names; and what to ask for there."""
    proxy = urllib.request.getproxies().get("https" if secure else "http")
    if proxy and urllib.request.proxy_bypass(f"{host}:{port}"):
        proxy = None
    if not proxy:
        if secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=context), target
        return http.client.HTTPConnection(host, port, timeout=seconds), target
    through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if not through.hostname:
        raise _not_sent("the environment's proxy is no address")
    proxied = {} if through.username is None else {
        "Proxy-Authorization": _basic(through.username, through.password)
    }  # fmt: skip
    place = (through.hostname, through.port or 8080)
    if secure:
        tunnel = http.client.HTTPSConnection(*place, timeout=seconds, context=ssl.create_default_context())
        tunnel.set_tunnel(host, port, headers=proxied)
        return tunnel, target
    headers.update(proxied)
    shown = f"[{host}]" if ":" in host else host
    return http.client.HTTPConnection(*place, timeout=seconds), f"http://{shown}:{port}{target}"


def _basic(user: str, password: str | None) -> str:
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


# --- mail ------------------------------------------------------------------------------------------------------------


def _mail(channel: Channel, message: Outgoing, now: datetime, cutter: Cutter) -> None:
    document = json.loads(message.body)
    mail = EmailMessage()
    mail["Subject"] = f"[BlockVault] {plain(document['subject'])}"[:200]
    mail["From"], mail["To"] = channel.sender, ", ".join(channel.to)
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{message.id}@blockvault>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(plain_text(document))
    host, port = _host_and_port(channel)
    password = _secret(channel).decode("utf-8", "replace") if channel.user else ""
    with cutter.limited():
        make = _SecureMail if port == smtplib.SMTP_SSL_PORT else _Mail
        with make(host, port, cutter) as server:
            _protect(server, host, port, cutter, needs_tls=bool(channel.user))
            if channel.user:
                server.login(channel.user, password)
            server.send_message(mail)


class _Mail(smtplib.SMTP):
    """Mail over a connection that the cutter can end."""

    def __init__(self, host: str, port: int, cutter: Cutter) -> None:
        self._cutter = cutter
        super().__init__(host, port, local_hostname="localhost", timeout=cutter.limit_seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made = socket.create_connection((host, port), timeout)
        self._cutter.watch(made)
        return made


class _SecureMail(smtplib.SMTP_SSL):
    """The same with TLS from the beginning."""

    def __init__(self, host: str, port: int, cutter: Cutter) -> None:
        self._cutter = cutter
        context = ssl.create_default_context()
        super().__init__(host, port, local_hostname="localhost", timeout=cutter.limit_seconds, context=context)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made = socket.create_connection((host, port), timeout)
        secure: socket.socket = self.context.wrap_socket(made, server_hostname=host)
        self._cutter.watch(secure)
        return secure


def _protect(server: smtplib.SMTP, host: str, port: int, cutter: Cutter, *, needs_tls: bool) -> None:
    """Begin TLS where the server offers it; without it nothing goes to another machine."""
    if port == smtplib.SMTP_SSL_PORT:
        return
    server.ehlo()
    if server.has_extn("starttls"):
        server.starttls(context=ssl.create_default_context())
        cutter.watch(server.sock)
        server.ehlo()
    elif needs_tls or not _is_loopback(host):
        raise _not_sent("the mail server offers no TLS: what is told would be read on the way")


def _host_and_port(channel: Channel) -> tuple[str, int]:
    host, colon, port = channel.server.rpartition(":")
    if not colon or "]" in port:
        host, port = channel.server, "587"
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _bad(channel, "'server' is written HOST:PORT")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- apprise ---------------------------------------------------------------------------------------------------------


def _apprise(channel: Channel, message: Outgoing) -> None:
    try:
        import apprise
    except ImportError:
        raise UnsupportedError(
            "notify.no-apprise",
            f"channel '{channel.name}' needs apprise, which is not installed",
            why="it is an extra: dozens of services in one library",
            do="pip install 'blockvault[notify]'",
        ) from None
    document = json.loads(message.body)
    sender: Any = apprise.Apprise()
    if not sender.add(channel.url):
        raise _bad(channel, "apprise does not know such a url")
    if not sender.notify(title=f"[BlockVault] {document['subject']}", body=plain_text(document)):
        raise _not_sent("apprise could not send it")


# --- what these share ------------------------------------------------------------------------------------------------


def _secret(channel: Channel) -> bytes:
    """What the secret file holds, without the newline at its end."""
    try:
        with open(channel.secret_file, "rb") as file:
            secret = file.read(SECRET_BYTES_MAX).rstrip(b"\r\n")
    except OSError as error:
        raise _bad(channel, f"its secret_file cannot be read: {error.strerror}") from None
    if not secret:
        raise _bad(channel, "its secret_file is empty")
    return secret


def _reason(error: Exception) -> str:
    """What went wrong, without what the error quotes of address or conversation."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the mail server answered {error.smtp_code}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "the mail server takes no mail for these addresses"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, socket.gaierror):
        return "there is no host of that name"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return f"the connection failed ({type(error).__name__})"


def _not_sent(why: str) -> TransportError:
    return TransportError("notify.not-sent", "a message could not be sent", why=why, do="it is tried again by itself")


def _bad(channel: Channel, why: str) -> InvalidInputError:
    return InvalidInputError(
        "notify.bad-channel",
        f"channel '{channel.name}' cannot be used",
        why=why,
        do="correct it in the configuration, or with `blockvault notify remove` and `notify add`",
    )
