"""Key slots and data-key epochs of an encrypted vault: list, add, replace, remove, rotate, and the paper key.

Order, so that a crash anywhere leaves a vault that opens:
- A slot that is added was read back and opened before `add` returns, and before `replace` removes the old one.
- Removing is one durable deletion, and refused where no other slot of this version is readable. Changes of one host
  take turns by a lock; if another host removed the others in the same moment, the slot is put back.
- A new epoch is one create-only config revision; of two that begin it at once, one is told.

What this does not do: a removed slot's passphrase still opens a copy of the slot that someone kept, for the master key
stays the same. An epoch does not help against someone who has the master key either.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from blockvault import keys as vault_keys
from blockvault.clock import from_text, to_text
from blockvault.engine.audited import audited
from blockvault.engine.session import Session
from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.failpoints import reach
from blockvault.format.paper import paper_lines, paper_text
from blockvault.model import KeySlotInfo, Secret
from blockvault.store.folder import put_config
from blockvault.store.key_slots import SLOT_BYTES_MAX, read_slots, slot_numbers, slot_object
from blockvault.store.locks import FileLock


class KeyChanges:
    """What can be done with the keys of an opened vault. Every method refuses one without encryption."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.store
        self._vault_id = session.keys.vault_id
        self._config = session.folder.config
        self._revision = session.folder.config_revision

    @property
    def epochs(self) -> int:
        """How many data keys there are; new objects of processes that open the vault now use the last."""
        return self._config.epochs

    def slots(self) -> list[KeySlotInfo]:
        """All slots in order of number. Raises `InvalidInputError` (`key.not-encrypted`), as all below."""
        self._check_encrypted()
        return [self._info(number, slot) for number, slot in read_slots(self._store).items()]

    def slot(self, number: int) -> KeySlotInfo:
        """The slot of that number. Raises `NotFoundError` (`key.slot-not-found`)."""
        for info in self.slots():
            if info.slot == number:
                return info
        raise NotFoundError(
            "key.slot-not-found",
            f"the vault '{self._session.name}' has no key slot {number}",
            do="see `blockvault vault key list`",
        )

    @audited("key.add", "label")
    def add(self, secret: Secret, *, label: str = "", now: datetime) -> KeySlotInfo:
        """Make a further slot that opens with `secret`.

        Raises:
            InvalidInputError: the secret or the label cannot be (`key.empty`, `key.file-short`, `key.bad-label`), or
                there are too many slots (`key.slots-full`).
            ConflictError: another process changes the slots (`key.locked`).
        """
        self._check_may_change(secret, label)
        with self._lock():
            return self._add(secret, label, now)

    @audited("key.replace", "number", "label")
    def replace(self, number: int, secret: Secret, *, label: str | None = None, now: datetime) -> KeySlotInfo:
        """Give up a slot for a new one that opens with `secret`: added first, then the old one removed.

        A crash in between leaves both. The label goes over unless another is given. Raises as `add` and `remove`.
        """
        self._check_may_change(secret, label or "")
        with self._lock():
            old = self.slot(number)
            made = self._add(secret, old.label if label is None else label, now)
            self._remove(number)
            return made

    @audited("key.remove", "number", when=lambda given: not given["dry_run"])
    def remove(self, number: int, *, dry_run: bool = False) -> KeySlotInfo:
        """Delete a slot; `dry_run` only says what would go.

        Raises:
            NotFoundError: there is no such slot (`key.slot-not-found`).
            InvalidInputError: no other slot is readable (`key.last-slot`).
            ConflictError: another process changes the slots (`key.locked`).
        """
        self._check_may_change()
        with self._lock():
            return self._remove(number, dry_run=dry_run)

    @audited("key.rotate")
    def rotate(self, *, now: datetime) -> int:
        """Begin the next epoch: objects of processes that open the vault from now on get a new data key.

        Nothing is written anew; what is there stays readable, for processes that have the vault open too. Returns the
        number of epochs. Raises `ConflictError` (`key.rotated-meanwhile`) if another process was faster.
        """
        self._check_may_change()
        if self._config.epochs >= vault_keys.EPOCHS_MAX:
            raise UnsupportedError(
                "key.epochs-used-up", f"the vault has {self._config.epochs} epochs, the most there are"
            )
        config = msgspec.structs.replace(self._config, epochs=self._config.epochs + 1, created=to_text(now))
        reach("key.rotating")
        try:
            put_config(self._store, self._session.keys, self._revision + 1, config)
        except AlreadyExistsError:
            raise ConflictError(
                "key.rotated-meanwhile",
                f"the configuration of the vault '{self._session.name}' was changed meanwhile",
                why="another process began an epoch, or changed the vault's settings",
                do="nothing, if that was the purpose; else run the command again",
            ) from None
        reach("key.rotated")
        self._config, self._revision = config, self._revision + 1
        return config.epochs

    @audited("key.export")
    def export(self, *, now: datetime) -> str:
        """The paper key as a sheet to be printed: it opens the vault without any slot."""
        self._check_encrypted()
        session = self._session
        return paper_text(
            session.folder.opened.master, vault_name=session.name, vault_id=session.vault_id, made=to_text(now)[:10]
        )

    def export_lines(self) -> list[str]:
        """The lines of the paper key alone."""
        self._check_encrypted()
        return paper_lines(self._session.folder.opened.master)

    # --- the steps, under the lock

    def _add(self, secret: Secret, label: str, now: datetime) -> KeySlotInfo:
        while True:
            numbers = slot_numbers(self._store)
            if len(numbers) >= vault_keys.SLOTS_MAX:
                raise InvalidInputError(
                    "key.slots-full",
                    f"the vault '{self._session.name}' has {len(numbers)} key slots",
                    why=f"at most {vault_keys.SLOTS_MAX} are tried when it is opened",
                    do="remove one with `blockvault vault key remove SLOT`",
                )
            number = max(numbers, default=-1) + 1
            master = self._session.folder.opened.master
            data = vault_keys.wrap(master, self._vault_id, number, secret, label=label, created=to_text(now))
            reach("key.adding")
            try:
                self._store.put_new(slot_object(number), data)
            except AlreadyExistsError:
                continue  # another host took the number
            reach("key.added")
            break
        slot = vault_keys.read_slot(number, self._store.read(slot_object(number), limit=SLOT_BYTES_MAX))
        if vault_keys.open_slot(slot, self._vault_id, secret) != master:
            raise CorruptionError(
                "key.slot-damaged",
                f"the new key slot {slot_object(number)} does not open",
                why="what was read back is not what was written",
                do="check the disk under the vault; the other slots are as they were",
            )
        reach("key.proven")
        return self._info(number, slot)

    def _remove(self, number: int, *, dry_run: bool = False) -> KeySlotInfo:
        info = self.slot(number)
        self._check_others(number)
        if dry_run:
            return info
        name = slot_object(number)
        try:
            data = self._store.read(name, limit=SLOT_BYTES_MAX)
        except BlockVaultError:
            data = b""  # damaged: it was no way in
        reach("key.removing")
        self._store.delete(name)
        reach("key.removed")
        try:
            self._check_others(number)
        except InvalidInputError:
            if data:
                self._store.put_new(name, data)
            raise
        return info

    # --- what is looked at

    def _check_encrypted(self) -> None:
        if not self._session.keys.encrypted:
            raise InvalidInputError(
                "key.not-encrypted",
                f"the vault '{self._session.name}' is not encrypted",
                why="it was made without a key, and a vault stays as it was made",
                do="make an encrypted one with `blockvault vault create`, and take points into it",
            )

    def _check_may_change(self, secret: Secret | None = None, label: str = "") -> None:
        self._check_encrypted()
        if secret is not None:
            vault_keys.check_new_secret(secret)
        vault_keys.check_label(label)
        self._session.check_writable()

    def _check_others(self, number: int) -> None:
        for other, slot in read_slots(self._store).items():
            if other != number and isinstance(slot, vault_keys.KeySlot) and slot.usable:
                return
        raise InvalidInputError(
            "key.last-slot",
            f"key slot {number} is the last one that opens the vault '{self._session.name}'",
            why="without it nothing in the vault could be read, by anyone",
            do="add another first: `blockvault vault key add`",
        )

    def _info(self, number: int, slot: vault_keys.KeySlot | str) -> KeySlotInfo:
        if isinstance(slot, str):
            return KeySlotInfo(slot=number, damage=slot)
        try:
            created = from_text(slot.created) if slot.created else None
        except InvalidInputError:
            created = None
        return KeySlotInfo(
            slot=number,
            kind=slot.kind,
            label=slot.label,
            created=created,
            memory_kib=slot.memory_kib,
            passes=slot.passes,
            lanes=slot.lanes,
            opened=number == self._session.folder.opened.slot,
        )

    def _lock(self) -> FileLock:
        return self._session.host.lock(
            "keys", kind="key.locked", subject="the vault's key slots are being changed", wait_seconds=30
        )
