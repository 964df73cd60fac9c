"""Quarantine: blocks, packs and layers that were found damaged, so that no later point relies on them (R15).

    main/quarantine/<pack or layer>/<slot>    one block of a pack
    main/quarantine/<pack or layer>/all       the whole object: missing, or its table or a part of it cannot be read

A name is all that counts: a record that cannot be read any more keeps its block in quarantine. What the record says
is for people. Being in quarantine changes nothing for readers, who check every block anyway; it tells writers what
not to refer to. So a wrong entry costs space, never correctness.

Invariants:
- Entries are created once; only `repair` removes one, after what it names was read whole again or nothing needs it.
- A pack with more than `SLOTS_TOLD` damaged blocks is quarantined whole: the folder stays small.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault.clock import to_text
from blockvault.errors import BlockVaultError
from blockvault.failpoints import reach
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record, unseal_record
from blockvault.model import VaultKeys
from blockvault.store.local import LocalStore

FOLDER = "main/quarantine"
ALL = "all"
SLOTS_TOLD = 256
_OBJECT = re.compile(r"^main/(?:packs/[0-9a-f]{2}|layers)/([0-9a-f]{32})(?:\.\d+-[0-9a-f]{8})?\Z")
_ENTRY = re.compile(r"^(?:0|[1-9][0-9]{0,6}|all)\Z")


def told_name(object_name: str) -> bytes | None:
    """The name of the pack or layer that an object's full name means; None for other objects."""
    match = _OBJECT.match(object_name)
    return bytes.fromhex(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One entry. `slot` is None for the whole object; `reason` is empty where the record cannot be read."""

    object: bytes
    slot: int | None
    reason: str
    at: str

    @property
    def name(self) -> str:
        """The entry's name in the vault."""
        return f"{FOLDER}/{self.object.hex()}/{ALL if self.slot is None else self.slot}"


class Quarantine:
    """What is in quarantine, as it was when last looked at, with what was found since. For any thread."""

    def __init__(self, store: LocalStore, keys: VaultKeys, *, host: str, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._keys = keys
        self._host = host
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: dict[bytes, set[int]] = {}
        self._whole: set[bytes] = set()
        self.writable = True
        self.refresh()

    def refresh(self) -> None:
        """Look again at what the vault holds. One listing where nothing is in quarantine."""
        slots: dict[bytes, set[int]] = {}
        whole: set[bytes] = set()
        for entry in self._store.entries(FOLDER):
            if not re.fullmatch(r"[0-9a-f]{32}", entry):
                continue
            name = bytes.fromhex(entry)
            for slot in self._store.entries(f"{FOLDER}/{entry}"):
                if slot == ALL:
                    whole.add(name)
                elif _ENTRY.match(slot):
                    slots.setdefault(name, set()).add(int(slot))
        with self._lock:
            self._slots, self._whole = slots, whole

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in quarantine: then nobody need ask for single blocks."""
        return not self._slots and not self._whole

    @property
    def count(self) -> int:
        """How many entries there are."""
        return len(self._whole) + sum(len(slots) for slots in self._slots.values())

    def holds(self, name: bytes, slot: int) -> bool:
        """Whether that block, or all of its pack, is in quarantine."""
        return name in self._whole or slot in self._slots.get(name, ())

    def mask(self, name: bytes, slots: NDArray[np.integer]) -> NDArray[np.bool_]:
        """`holds` for many slots of one pack."""
        if name in self._whole:
            return np.ones(len(slots), dtype=np.bool_)
        known = self._slots.get(name)
        if not known:
            return np.zeros(len(slots), dtype=np.bool_)
        found: NDArray[np.bool_] = np.isin(slots, np.fromiter(known, dtype=np.int64, count=len(known)))
        return found

    def note(self, name: bytes, slot: int | None, reason: str) -> bool:
        """Put a block, or (without `slot`) a whole pack or layer, into quarantine. Says whether it was written.

        Where the vault cannot be written it is remembered by this process only: whoever found the damage names it
        anyway.
        """
        with self._lock:
            if name in self._whole or (slot is not None and slot in self._slots.get(name, ())):
                return False
            if slot is not None and len(self._slots.get(name, ())) >= SLOTS_TOLD:
                slot, reason = None, f"more than {SLOTS_TOLD} of its blocks are damaged"
            if slot is None:
                self._whole.add(name)
            else:
                self._slots.setdefault(name, set()).add(slot)
        if not self.writable:
            return False
        entry = Quarantined(name, slot, reason, to_text(self._clock()))
        body = records.QuarantineBody(
            object=name.hex(), slot=ALL if slot is None else str(slot), reason=reason, at=entry.at, host=self._host
        )
        data, _ = seal_record(self._keys, Kind.QUARANTINE, entry.name, records.encode(body))
        try:
            reach("quarantine.note")
            self._store.put_new(entry.name, data)
        except BlockVaultError as error:
            if error.kind != "store.exists":
                self.writable = False  # a full disk or a read-only vault: not worth failing what found the damage
        except OSError:
            self.writable = False
        return self.writable

    def note_object(self, object_name: str, slot: int | None, reason: str) -> bool:
        """`note` by an object's full name; what is neither pack nor layer is none of quarantine's business."""
        name = told_name(object_name)
        return name is not None and self.note(name, slot, reason)

    def entries(self) -> list[Quarantined]:
        """All entries with what their records say, in order of name."""
        with self._lock:
            wanted = [(name, None) for name in self._whole]
            wanted += [(name, slot) for name, slots in self._slots.items() for slot in slots]  # type: ignore[misc]
        found = []
        for name, slot in sorted(wanted, key=lambda entry: (entry[0], -1 if entry[1] is None else entry[1])):
            entry = Quarantined(name, slot, "", "")
            try:
                body, _ = unseal_record(self._keys, Kind.QUARANTINE, entry.name, self._store.read(entry.name))
                told = records.decode(entry.name, body, records.QuarantineBody)
                entry = Quarantined(name, slot, told.reason, told.at)
            except BlockVaultError:
                pass  # its name is what counts
            found.append(entry)
        return found

    def release(self, entry: Quarantined) -> None:
        """Take an entry back: what it names was read whole again, or nothing needs it."""
        self._store.delete(entry.name)
        reach("quarantine.released")
        with self._lock:
            if entry.slot is None:
                self._whole.discard(entry.object)
            else:
                slots = self._slots.get(entry.object, set())
                slots.discard(entry.slot)
                if not slots:
                    self._slots.pop(entry.object, None)
