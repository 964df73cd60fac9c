"""Keys of a vault: derivation from the master key, and its wrapping in key slots.

The master key is 32 random bytes. Without encryption it stands in the vault's header, and its derived keys only
detect damage; with encryption it is wrapped in key slots and never stored plain. From it come, by HKDF-SHA256:
the id key, the run key and the digest seed, which never change in a vault's life, and one data key per epoch.

A slot wraps the master key with AES-256-GCM under a key from a passphrase (Argon2id, RFC 9106: 64 MiB, 3 passes,
4 lanes) or from the BLAKE3 of a key file. Bound to it as associated data are the vault id, the slot's number, when it
was made and its label; kind, salt and costs are bound by the wrapping key. So a slot that was altered, renumbered or
taken from another vault does not open. Its `check` tells damage from a wrong passphrase; it keeps no forger out.

Invariants:
- Costs out of bounds are refused before they are spent, and at most `SLOTS_MAX` slots are tried.
- A slot that cannot be read never keeps another from opening.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import re
import struct

import blake3
import msgspec

from blockvault.errors import CorruptionError, InvalidInputError, UnsupportedError, WrongKeyError
from blockvault.model import Secret, VaultKeys

ARGON_MEMORY_KIB = 64 << 10
ARGON_MEMORY_KIB_MAX = 1 << 20
ARGON_PASSES = 3
ARGON_PASSES_MAX = 16
ARGON_LANES = 4
ARGON_LANES_MAX = 16
KEY_FILE_BYTES_MIN = 32
MASTER_KEY_BYTES = 32
SLOTS_MAX = 32
EPOCHS_MAX = 1 << 20
LABEL_MAX = 200
SLOT_NAME = re.compile(r"(0|[1-9][0-9]{0,5})\Z")
PASSPHRASE, KEY_FILE = "passphrase", "key-file"

_SALT_BYTES, _NONCE_BYTES, _WRAPPED_BYTES = 16, 12, 12 + MASTER_KEY_BYTES + 16


class KeySlot(msgspec.Struct, frozen=True):
    """One way to the master key, as it is stored under `keys/<slot>`. The first slots had no `created` and `check`."""

    slot: int
    kind: str  # "passphrase" | "key-file"; a later version may have others
    salt: str  # hex, 16 bytes
    wrapped: str  # hex: 12-byte nonce, ciphertext, tag
    memory_kib: int = 0
    passes: int = 0
    lanes: int = 0
    label: str = ""
    created: str = ""
    check: str = ""

    @property
    def usable(self) -> bool:
        """Whether this version can open it, given the right secret."""
        return self.kind in (PASSPHRASE, KEY_FILE)


Slots = dict[int, KeySlot | str]
"""The key slots of a vault by number, in order; of one that cannot be read, the reason."""


def new_master_key() -> bytes:
    """32 bytes from the system's random source."""
    return os.urandom(MASTER_KEY_BYTES)


def derive(master: bytes, vault_id: bytes, *, encrypted: bool, epochs: int = 1) -> VaultKeys:
    """All keys of a vault from its master key; new objects are sealed under the last of `epochs`."""
    secret = hmac.new(vault_id, master, hashlib.sha256).digest()
    key = functools.partial(_expand, secret)
    return VaultKeys(
        vault_id=vault_id,
        encrypted=encrypted,
        id_key=key("id"),
        run_key=key("run"),
        digest_seed=struct.unpack("<Q", key("digest seed")[:8])[0],
        data_key=functools.lru_cache(maxsize=16)(lambda epoch: key(f"data {epoch}")),
        epoch=epochs - 1,
    )


def _expand(secret: bytes, label: str) -> bytes:
    return hmac.new(secret, b"blockvault/1 " + label.encode() + b"\x01", hashlib.sha256).digest()


def fingerprint(keys: VaultKeys) -> str:
    """Tells whether a master key is this vault's, without telling anything of it."""
    return blake3.blake3(b"fingerprint", key=keys.run_key).hexdigest(length=16)


def check_new_secret(secret: Secret) -> Secret:
    """Return a secret that a slot may be made with.

    Raises `InvalidInputError`: an empty passphrase (`key.empty`), a key file below 32 bytes (`key.file-short`).
    """
    if secret.passphrase is not None and not secret.passphrase:
        raise InvalidInputError("key.empty", "the new passphrase is empty", do="choose one that is not easily guessed")
    if secret.key_file is not None and len(secret.key_file) < KEY_FILE_BYTES_MIN:
        raise InvalidInputError(
            "key.file-short",
            f"the new key file has only {len(secret.key_file)} bytes",
            why=f"a key file needs at least {KEY_FILE_BYTES_MIN} random bytes",
            do="make one: head -c 32 /dev/urandom > FILE",
        )
    if secret.passphrase is None and secret.key_file is None:
        raise InvalidInputError("key.none-given", "no new passphrase or key file was given", do="give one")
    return secret


def check_label(label: str) -> str:
    """Return a slot's label, or raise `InvalidInputError` (`key.bad-label`)."""
    if len(label) > LABEL_MAX or not label.isprintable():
        raise InvalidInputError(
            "key.bad-label",
            "that cannot be the label of a key slot",
            why=f"a label has at most {LABEL_MAX} printable characters",
            do="choose another",
        )
    return label


def wrap(master: bytes, vault_id: bytes, number: int, secret: Secret, *, label: str, created: str) -> bytes:
    """The stored form of a key slot that opens with `secret`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    check_new_secret(secret)
    salt = os.urandom(_SALT_BYTES).hex()
    slot = KeySlot(slot=number, kind=KEY_FILE, salt=salt, wrapped="", label=check_label(label), created=created)
    if secret.passphrase is not None:
        costs = {"memory_kib": ARGON_MEMORY_KIB, "passes": ARGON_PASSES, "lanes": ARGON_LANES}
        slot = msgspec.structs.replace(slot, kind=PASSPHRASE, **costs)
    nonce = os.urandom(_NONCE_BYTES)
    wrapped = nonce + AESGCM(_wrapping_key(slot, secret)).encrypt(nonce, master, _associated(vault_id, slot))
    slot = msgspec.structs.replace(slot, wrapped=wrapped.hex())
    return msgspec.json.encode(msgspec.structs.replace(slot, check=_check(slot)))


def read_slot(number: int, data: bytes) -> KeySlot:
    """The slot in the file of that number, its form checked and its costs bounded.

    Raises `CorruptionError` (`key.slot-damaged`), whose `why` is the reason.
    """
    try:
        slot = msgspec.json.decode(data, type=KeySlot)
        salt, wrapped, check = bytes.fromhex(slot.salt), bytes.fromhex(slot.wrapped), _check(slot)
    except (msgspec.MsgspecError, ValueError):
        raise _damaged_slot(number, "it is not a key slot's text") from None
    if slot.slot != number:
        raise _damaged_slot(number, f"it says that it is slot {slot.slot}: it was moved or copied")
    if (slot.created or slot.check) and slot.check != check:
        raise _damaged_slot(number, "its check does not match its text")
    if slot.usable and (len(salt) != _SALT_BYTES or len(wrapped) != _WRAPPED_BYTES):
        raise _damaged_slot(number, "its salt or wrapped key has a wrong length")
    if slot.kind == PASSPHRASE and not (
        8 <= slot.memory_kib <= ARGON_MEMORY_KIB_MAX
        and 1 <= slot.passes <= ARGON_PASSES_MAX
        and 1 <= slot.lanes <= ARGON_LANES_MAX
        and slot.memory_kib >= 8 * slot.lanes
    ):
        raise _damaged_slot(number, "its Argon2id costs are out of bounds")
    return slot


def unwrap(slots: Slots, vault_id: bytes, secret: Secret | None, vault_name: str) -> tuple[bytes, int]:
    """The master key, and the number of the slot that opened.

    Raises:
        WrongKeyError: no secret was given (`key.missing`) or none of the slots opens with it (`key.wrong`).
        CorruptionError: no slot is readable (`key.slots-damaged`).
    """
    if secret is None or (secret.passphrase is None and secret.key_file is None):
        raise WrongKeyError(
            "key.missing",
            f"the vault '{vault_name}' is encrypted and no key was given",
            why="neither a passphrase nor a key file reached this command",
            do="set BLOCKVAULT_PASSWORD_FILE or BLOCKVAULT_PASSWORD_COMMAND, or use --key-file",
        )
    readable = {number: slot for number, slot in slots.items() if isinstance(slot, KeySlot)}
    for number, slot in list(readable.items())[:SLOTS_MAX]:
        master = open_slot(slot, vault_id, secret)
        if master is not None:
            return master, number
    damaged = [f"keys/{number}" for number in slots if number not in readable]
    if not readable:
        raise CorruptionError(
            "key.slots-damaged",
            f"no key slot of the vault '{vault_name}' is readable",
            why=f"damaged: {', '.join(damaged)}" if damaged else "the files under keys/ are missing",
            do="put the folder keys/ back from a copy, or use the paper key with `blockvault vault key import`",
        )
    raise WrongKeyError(
        "key.wrong",
        f"the given key does not open the vault '{vault_name}'",
        why=("its key slot does not fit" if len(readable) == 1 else f"none of its {len(readable)} key slots fits")
        + (f"; damaged: {', '.join(damaged)}" if damaged else ""),
        do="check the passphrase or key file; nothing was changed",
    )


def open_slot(slot: KeySlot, vault_id: bytes, secret: Secret) -> bytes | None:
    """The master key if the slot opens with `secret`, else None."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not slot.usable or (secret.passphrase if slot.kind == PASSPHRASE else secret.key_file) is None:
        return None
    wrapped = bytes.fromhex(slot.wrapped)
    try:
        return AESGCM(_wrapping_key(slot, secret)).decrypt(
            wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _associated(vault_id, slot)
        )
    except InvalidTag:
        return None


def _damaged_slot(number: int, reason: str) -> CorruptionError:
    return CorruptionError("key.slot-damaged", f"the key slot keys/{number} is damaged", why=reason)


def _associated(vault_id: bytes, slot: KeySlot) -> bytes:
    bound = b"blockvault/1 key slot" + vault_id + struct.pack("<I", slot.slot)
    if not slot.created:
        return bound
    return bound + slot.created.encode() + b"\0" + slot.label.encode()


def _check(slot: KeySlot) -> str:
    parts = [getattr(slot, name) for name in KeySlot.__struct_fields__ if name != "check"]
    return blake3.blake3("\0".join(str(part) for part in parts).encode()).hexdigest(length=16)


def _wrapping_key(slot: KeySlot, secret: Secret) -> bytes:
    salt = bytes.fromhex(slot.salt)
    if slot.kind == KEY_FILE:
        assert secret.key_file is not None
        return blake3.blake3(secret.key_file, key=hashlib.sha256(b"blockvault key file" + salt).digest()).digest()
    assert secret.passphrase is not None
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    except ImportError as error:
        raise UnsupportedError(
            "key.no-argon2",
            "this Python's cryptography has no Argon2id",
            why=str(error),
            do="install cryptography 44 or newer",
        ) from None
    kdf = Argon2id(salt=salt, length=32, iterations=slot.passes, lanes=slot.lanes, memory_cost=slot.memory_kib)
    return kdf.derive(secret.passphrase)
