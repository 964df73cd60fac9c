"""`blockvault notify add`: tell people through one more channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call

_KINDS = ("webhook", "smtp", "ping", "apprise")


@click.command("add")
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="How it is told.")
@click.option("--url", metavar="URL", default="", help="Of a webhook, a ping or apprise; others may see it while this "
              "runs: --url-file is safer.")  # fmt: skip
@click.option("--url-file", metavar="FILE", help="A file that holds the URL; `-` for standard input.")
@click.option("--to", metavar="ADDRESS", multiple=True, help="Who gets mail; several times for several.")
@click.option("--from", "sender", metavar="ADDRESS", default="", help="Whom mail comes from.")
@click.option("--server", metavar="HOST:PORT", default="", help="The mail server; port 465 is TLS, else STARTTLS.")
@click.option("--user", metavar="NAME", default="", help="Who logs in there.")
@click.option("--secret-file", metavar="FILE", default="", help="Holds the password, or the key that signs a webhook.")
@click.option("--event", "events", metavar="EVENT", multiple=True, help="What it is told of; several times for "
              "several, else everything.")  # fmt: skip
@leaf(vault=False)
def command(
    call: Call,
    name: str,
    kind: str,
    url: str,
    url_file: str | None,
    to: tuple[str, ...],
    sender: str,
    server: str,
    user: str,
    secret_file: str,
    events: tuple[str, ...],
) -> int | None:
    """Add a channel through which people are told.

    It is written to notify.toml in the state folder, readable by its owner alone; `[[notify]]` of the configuration
    does the same. Events are alert.critical, alert.warning, alert.info, alert.resolved, job.failed, summary.daily. A
    running daemon takes it up when it is started the next time.
    """
    import os

    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir
    from blockvault.config.settings import EVENTS, Channel
    from blockvault.reports.notify import add_channel
    from blockvault.store.audit_log import AuditLog

    for event in events:
        if event not in EVENTS:
            raise click.UsageError(f"there is no event '{event}'; there are: {', '.join(EVENTS)}")
    if url and url_file:
        raise click.UsageError("--url and --url-file say the same: give one")
    channel = Channel(
        name=name,
        kind=kind,
        url=_read(url_file) if url_file else url,
        to=to,
        sender=sender,
        server=server,
        user=user,
        secret_file=os.path.abspath(secret_file) if secret_file else "",
        events=events,
    )
    state = default_state_dir()
    details = {"channel": name, "kind": kind, "to": to, "events": events}
    with AuditLog(state).acting("notify.add", details):
        add_channel(state, channel, utc_now())
    if call.output.as_json:
        call.output.document({"schema": "blockvault.channel/1", "channel": name, "kind": kind, "added": True})
    elif not call.output.quiet:
        call.output.line(f"channel '{name}' is added; try it with `blockvault notify test {name}`")
    if kind == "webhook" and not secret_file:
        call.output.note("its messages are not signed: give --secret-file, so that the receiver can tell who sent them")
    if kind in ("webhook", "ping") and channel.url.startswith("http://"):
        call.output.note("its address begins with http://: what is told can be read on the way")
    return None


def _read(file: str) -> str:
    from blockvault.errors import InvalidInputError

    try:
        with click.open_file(file, "r", encoding="utf-8") as stream:
            text: str = stream.read(64 << 10)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InvalidInputError(
            "input.url-file", f"the URL cannot be read from {file}", why=why, do="check the path"
        ) from None
    return text.strip()
