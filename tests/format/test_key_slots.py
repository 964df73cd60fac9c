"""Key slots and the paper key as `docs/format.md` tells them (4.3, 4.4), computed here anew without the code."""

from __future__ import annotations

import hashlib
import json
import re
import struct

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from format_document import table

from blockvault import keys as vault_keys
from blockvault.format.paper import paper_text, read_paper
from blockvault.model import Secret

MASTER, VAULT_ID = bytes(range(32)), bytes(range(100, 116))
CREATED, LABEL = "2026-11-20T02:00:00.000000Z", "ein Zettel, für später"
FIRST_LINE = "000G-40R4-0M30-F637"  # of MASTER: papers that exist must stay readable
SIGNS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def master_of(data: bytes, secret: Secret) -> bytes:
    """The master key, by the document alone."""
    slot = json.loads(data)
    salt, wrapped = bytes.fromhex(slot["salt"]), bytes.fromhex(slot["wrapped"])
    if slot["kind"] == "passphrase":
        assert secret.passphrase is not None
        key = Argon2id(
            salt=salt, length=32, iterations=slot["passes"], lanes=slot["lanes"], memory_cost=slot["memory_kib"]
        ).derive(secret.passphrase)
    else:
        key = blake3(secret.key_file, key=hashlib.sha256(b"blockvault key file" + salt).digest()).digest()
    bound = b"blockvault/1 key slot" + VAULT_ID + struct.pack("<I", slot["slot"])
    if slot["created"]:
        bound += slot["created"].encode() + b"\0" + slot["label"].encode()
    return AESGCM(key).decrypt(wrapped[:12], wrapped[12:], bound)


@pytest.mark.parametrize("secret", [Secret(passphrase="größe".encode()), Secret(key_file=bytes(range(40)))], ids=repr)
def test_a_slot_opens_and_is_checked_as_the_document_says(secret: Secret) -> None:
    data = vault_keys.wrap(MASTER, VAULT_ID, 7, secret, label=LABEL, created=CREATED)
    assert master_of(data, secret) == MASTER
    slot = json.loads(data)
    names = [row["field"] for row in table("key slot")]
    assert names[-1] == "check"
    text = "\0".join(str(slot[name]) for name in names[:-1])
    assert slot["check"] == blake3(text.encode()).hexdigest()[:32]


def test_a_slot_of_the_first_vaults_opens() -> None:
    """Without `created` and `check`; nothing binds its label."""
    secret = Secret(key_file=bytes(range(40)))
    salt, nonce = bytes(range(16)), bytes(12)
    key = blake3(secret.key_file, key=hashlib.sha256(b"blockvault key file" + salt).digest()).digest()
    wrapped = nonce + AESGCM(key).encrypt(nonce, MASTER, b"blockvault/1 key slot" + VAULT_ID + struct.pack("<I", 0))
    old = {"slot": 0, "kind": "key-file", "salt": salt.hex(), "wrapped": wrapped.hex(), "memory_kib": 0, "passes": 0}
    data = json.dumps({**old, "lanes": 0, "label": "first"}).encode()
    slot = vault_keys.read_slot(0, data)
    assert vault_keys.open_slot(slot, VAULT_ID, secret) == MASTER
    assert master_of(json.dumps({**json.loads(data), "created": ""}).encode(), secret) == MASTER


def test_a_paper_key_is_what_the_document_says() -> None:
    sheet = paper_text(MASTER, vault_name="safe", vault_id=VAULT_ID.hex(), made="2026-11-20")
    lines = re.findall(r"^([1-4])  (\S{4}-\S{4}-\S{4}-\S{4})$", sheet, re.MULTILINE)
    assert [number for number, _ in lines] == ["1", "2", "3", "4"]
    key = b""
    for number, line in lines:
        value = 0
        for sign in line.replace("-", ""):
            value = value * 32 + SIGNS.index(sign)
        data = value.to_bytes(10, "big")
        assert data[8:] == blake3(b"blockvault paper key" + bytes([int(number)]) + data[:8]).digest()[:2]
        key += data[:8]
    assert key == MASTER == read_paper(sheet)
    assert lines[0][1] == FIRST_LINE
