"""The book of alerts of one host, in LMDB: `<state>/alerts/`. What was found, what was told, what waits to be sent.

    alerts    key -> alert, open or resolved
    samples   folder's key / day -> the space there on that day, one a day
    known     vault/item -> since when the item is known to be protected
    outbox    channel / id -> a message that could not be sent yet
    facts     single values: when the last summary was sent

Invariants:
- An alert's change and the messages that tell of it are one transaction: none is told twice or not at all because of a
  crash between the two.
- A message leaves the outbox in the transaction that follows the receiver's yes, or when it is too old.
- It is a memory, not the truth: what is wrong is found again by the next look. Damaged, it is set aside and begun anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Self, TypeVar

import msgspec

from blockvault.clock import from_text, to_text
from blockvault.format import jsontext
from blockvault.model.alert import Alert, Outgoing, Sample
from blockvault.store.environment import Environment

FOLDER = "alerts"
MAP_BYTES_START = 16 << 20
SAMPLES_KEPT = 400  # days
RESOLVED_KEPT = timedelta(days=400)
OUTBOX_MOST = 1_000  # messages of one channel
OUTBOX_KEPT = timedelta(days=8)  # the sender gives them up before, and says so; this is for channels without one
_KEY_BYTES_MAX = 480  # LMDB's keys have 511 at most

Changed = tuple[list[Alert], list[Outgoing]]
T = TypeVar("T")


class AlertBook:
    """The opened book of a state folder; one in a process at a time (LMDB's rule)."""

    def __init__(self, state_dir: str) -> None:
        self._environment = Environment(
            os.path.join(state_dir, FOLDER),
            (b"alerts", b"samples", b"known", b"outbox", b"facts"),
            noun="the book of alerts",
            kind="alerts.failed",
            map_bytes=MAP_BYTES_START,
        )
        self._alerts, self._samples, self._known, self._outbox, self._facts = self._environment.databases

    @property
    def set_aside(self) -> str | None:
        """Where a damaged book was put when this one was opened."""
        return self._environment.set_aside

    def close(self) -> None:
        """Close the book; safe to call again."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _read(self, work: Callable[[Any], T]) -> T:
        return self._environment.run(work, write=False)

    def _write(self, work: Callable[[Any], T]) -> T:
        """One transaction: durable, whole or not at all, when this returns."""
        return self._environment.run(work, write=True)

    # --- alerts ------------------------------------------------------------------------------------------------

    def alerts(self) -> list[Alert]:
        """All alerts, in order of their keys. One that cannot be read is left out: the next look finds it anew."""
        return self._read(lambda txn: list(_values(txn, self._alerts, b"", Alert)))

    def change(self, decide: Callable[[dict[str, Alert]], Changed]) -> Changed:
        """Change alerts by what they are now, and put messages into the outbox, in one transaction.

        Args:
            decide: gets the alerts by key; returns those that are new or changed, and what is to be sent.
        """

        def work(txn: Any) -> Changed:
            known = {alert.key: alert for alert in _values(txn, self._alerts, b"", Alert)}
            changed, outgoing = decide(known)
            for alert in changed:
                txn.put(_key(alert.key), jsontext.encode(alert), db=self._alerts)
            _post(txn, self._outbox, outgoing)
            return changed, outgoing

        return self._write(work)

    def trim(self, now: datetime) -> None:
        """Forget alerts that were resolved long ago, samples that are too old, messages of channels that are gone."""

        def work(txn: Any) -> None:
            for alert in list(_values(txn, self._alerts, b"", Alert)):
                if alert.resolved is not None and alert.resolved < now - RESOLVED_KEPT:
                    txn.delete(_key(alert.key), db=self._alerts)
            for message in list(_values(txn, self._outbox, b"", Outgoing)):
                if message.created < now - OUTBOX_KEPT:
                    txn.delete(_outbox_key(message), db=self._outbox)
            oldest = (now - timedelta(days=SAMPLES_KEPT)).date().isoformat().encode()
            old = [key for key, _ in _pairs(txn, self._samples, b"") if key.rpartition(b"/")[2] < oldest]
            for key in old:
                txn.delete(key, db=self._samples)

        self._write(work)

    # --- samples -----------------------------------------------------------------------------------------------

    def samples(self, key: str) -> tuple[Sample, ...]:
        """The samples of a folder, oldest first."""
        return self._read(lambda txn: tuple(_values(txn, self._samples, _key(key) + b"/", Sample)))

    def sample_days(self, key: str) -> date | None:
        """The day of the newest sample of a folder; None: there is none."""
        found = self.samples(key)
        return found[-1].day if found else None

    def add_sample(self, key: str, sample: Sample) -> None:
        """Keep the first sample of a day; another of the same day is not kept."""

        def work(txn: Any) -> None:
            txn.put(
                _key(key) + b"/" + sample.day.isoformat().encode(),
                jsontext.encode(sample),
                db=self._samples,
                overwrite=False,
            )

        self._write(work)

    # --- items -------------------------------------------------------------------------------------------------

    def known_since(self, vault_id: str, item_ids: Iterable[str], now: datetime) -> dict[str, datetime]:
        """Since when items are known to be protected: those that are new, since now; what is not named is forgotten."""
        prefix = _key(vault_id) + b"/"
        wanted = set(item_ids)
        known = self._read(lambda txn: _known(txn, self._known, prefix))
        if known.keys() == wanted:
            return known

        def work(txn: Any) -> dict[str, datetime]:
            found = _known(txn, self._known, prefix)
            for item_id in found.keys() - wanted:
                txn.delete(prefix + item_id.encode(), db=self._known)
            for item_id in wanted - found.keys():
                txn.put(prefix + item_id.encode(), to_text(now).encode(), db=self._known)
            return {item_id: found.get(item_id, now) for item_id in wanted}

        return self._write(work)

    # --- single values -----------------------------------------------------------------------------------------

    def fact(self, name: str) -> str:
        """A single value; "" if it was never set."""
        return self._read(lambda txn: bytes(txn.get(name.encode(), b"", db=self._facts)).decode())

    def set_fact(self, name: str, value: str, outgoing: Iterable[Outgoing] = ()) -> None:
        """Set a single value, and put messages into the outbox with it."""

        def work(txn: Any) -> None:
            txn.put(name.encode(), value.encode(), db=self._facts)
            _post(txn, self._outbox, outgoing)

        self._write(work)

    # --- the outbox --------------------------------------------------------------------------------------------

    def post(self, outgoing: Iterable[Outgoing]) -> None:
        """Put messages into the outbox."""
        self._write(lambda txn: _post(txn, self._outbox, outgoing))

    def waiting(self, channel: str | None = None) -> list[Outgoing]:
        """What waits to be sent, of one channel or of all, oldest first."""
        prefix = b"" if channel is None else _key(channel) + b"/"
        found = self._read(lambda txn: list(_values(txn, self._outbox, prefix, Outgoing)))
        return sorted(found, key=lambda each: (each.created, each.id))

    def sent(self, message: Outgoing) -> None:
        """The receiver has it, or it is given up: it leaves the outbox."""
        self._write(lambda txn: txn.delete(_outbox_key(message), db=self._outbox))

    def failed(self, message: Outgoing, not_before: datetime, problem: str) -> None:
        """A try failed: the next one is not made before a moment. One that was sent or given up meanwhile stays so."""
        tried = replace(message, tries=message.tries + 1, not_before=not_before, problem=problem[:500])

        def work(txn: Any) -> None:
            if txn.get(_outbox_key(message), db=self._outbox) is not None:
                txn.put(_outbox_key(message), jsontext.encode(tried), db=self._outbox)

        self._write(work)


def _post(txn: Any, outbox: Any, outgoing: Iterable[Outgoing]) -> None:
    for message in outgoing:
        prefix = _key(message.channel) + b"/"
        waiting = [key for key, _ in _pairs(txn, outbox, prefix)]
        for key in waiting[: max(0, len(waiting) + 1 - OUTBOX_MOST)]:  # ids are in order of time: the oldest go
            txn.delete(key, db=outbox)
        txn.put(_outbox_key(message), jsontext.encode(message), db=outbox)


def _outbox_key(message: Outgoing) -> bytes:
    return _key(message.channel) + b"/" + message.id.encode()


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:_KEY_BYTES_MAX]


def _pairs(txn: Any, database: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(db=database) as cursor:
        going = cursor.set_range(prefix) if prefix else cursor.first()
        while going and bytes(cursor.key()).startswith(prefix):
            yield bytes(cursor.key()), bytes(cursor.value())
            going = cursor.next()


def _values(txn: Any, database: Any, prefix: bytes, kind: type[Any]) -> Iterator[Any]:
    for _, value in _pairs(txn, database, prefix):
        try:
            yield jsontext.decode(value, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue


def _known(txn: Any, database: Any, prefix: bytes) -> dict[str, datetime]:
    return {key[len(prefix) :].decode(): from_text(value.decode()) for key, value in _pairs(txn, database, prefix)}
