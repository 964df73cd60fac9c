"""The test vectors of `docs/format.md`: computed here with the standard library and BLAKE3 alone, and by the code.

The code must make and read exactly these bytes. A vector that changes is another format.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from format_document import plain, table, vectors

from blockvault import kernel
from blockvault import keys as vault_keys
from blockvault.engine.naming import point_id
from blockvault.errors import CorruptionError
from blockvault.format import envelope
from blockvault.format.layers import run_digest
from blockvault.ids import OriginId
from blockvault.model import VaultKeys

VECTORS = vectors()
VAULT_ID, MASTER = (bytes.fromhex(VECTORS[name]) for name in ("vault_id", "master_key"))
NAME = VECTORS["record_name"]
CIPHERS = [pytest.param(0, "record", id="tags"), pytest.param(1, "record_encrypted", id="encrypted")]


def raw(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def code_keys(*, encrypted: bool) -> VaultKeys:
    return vault_keys.derive(MASTER, VAULT_ID, encrypted=encrypted, epochs=8)


def info_of(key: str) -> bytes:
    (row,) = [row for row in table("keys") if row["key"] == key]
    return plain(row["info"]).encode()


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Test case 1 of the RFC: its first 32 bytes."""
    found = envelope.hkdf(bytes([0x0B]) * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_keys() -> None:
    keys = code_keys(encrypted=False)
    assert keys.id_key == hkdf(MASTER, VAULT_ID, info_of("id key")) == raw("id_key")
    assert keys.run_key == hkdf(MASTER, VAULT_ID, info_of("run key")) == raw("run_key")
    (seed,) = struct.unpack("<Q", hkdf(MASTER, VAULT_ID, info_of("digest seed"))[:8])
    assert keys.digest_seed == seed == VECTORS["digest_seed"]
    info = info_of("data key of epoch e").removesuffix(b" e")
    assert keys.data_key(0) == hkdf(MASTER, VAULT_ID, info + b" 0") == raw("data_key_0")
    assert keys.data_key(7) == hkdf(MASTER, VAULT_ID, info + b" 7") == raw("data_key_7")
    assert keys.epoch == 7
    assert vault_keys.fingerprint(keys) == VECTORS["fingerprint"]
    assert blake3(b"fingerprint", key=keys.run_key).digest()[:16] == raw("fingerprint")


def test_the_id_of_a_short_chunk() -> None:
    vector = VECTORS["id_of_zero_padded_abc"]
    chunk = bytes.fromhex(vector["plain"]).ljust(vector["chunk_size"], b"\0")
    found = kernel.identify_plain(chunk, chunk_size=len(chunk), seed=0, id_key=raw("id_key"))
    assert bytes(np.asarray(found.ids)[0]).hex() == vector["id"]
    assert blake3(chunk, key=raw("id_key")).hexdigest() == vector["id"]


def test_the_id_of_a_point() -> None:
    vector = VECTORS["point_id"]
    assert point_id(VAULT_ID, OriginId(vector["origin"]), vector["number"]) == vector["id"]
    told = b"blockvault point" + VAULT_ID + bytes.fromhex(vector["origin"]) + struct.pack("<Q", vector["number"])
    assert blake3(told).digest()[:16].hex() == vector["id"]


def test_the_digest_of_a_run() -> None:
    vector = VECTORS["run_digest"]
    ids = [bytes.fromhex(name) for name in vector["ids"]]
    table = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 32)
    assert run_digest(raw("run_key"), np.array(vector["chunks"], np.uint64), table).hex() == vector["digest"]
    told = b"".join(struct.pack("<Q", chunk) + name for chunk, name in zip(vector["chunks"], ids, strict=True))
    assert blake3(told, key=raw("run_key")).digest()[:16].hex() == vector["digest"]


def head_of(cipher: int) -> bytes:
    epoch = 0
    return struct.pack("<4s4sHBBI32s16s", b"BVLT", b"MARK", 1, cipher, 0, epoch, raw("salt"), raw("write_id"))


def sealed_by_hand(cipher: int, number: int, data: bytes) -> bytes:
    """Section 5.2, with the standard library, BLAKE3 and AES-GCM."""
    head, name = head_of(cipher), NAME.encode()
    key = hkdf(raw("data_key_0"), raw("salt"), b"blockvault/1 " + head[:8])
    assert key == raw("object_key")
    associated = b"blockvault/1\0" + VAULT_ID + head + struct.pack("<H", len(name)) + name
    if cipher == 0:
        assert associated == raw("record_associated_data")
    nonce = bytes(4) + struct.pack("<Q", number)
    if cipher == 1:
        return AESGCM(key).encrypt(nonce, data, associated)
    return data + blake3(struct.pack("<Q", len(associated)) + associated + nonce + data, key=key).digest()[:16]


@pytest.mark.parametrize(("cipher", "vector"), CIPHERS)
def test_a_sealed_record_has_exactly_these_bytes(cipher: int, vector: str) -> None:
    head, frame = head_of(cipher), raw("frame")
    stored = sealed_by_hand(cipher, 2**64 - 1, frame)
    data = head + stored + struct.pack("<QQ8s", 64, len(stored), b"BVLTTAIL")
    assert data == raw(vector)
    assert stored[-16:] == raw(f"{vector}_digest")
    sealer = envelope.open_sealer(code_keys(encrypted=cipher == 1), envelope.Kind.MARK, NAME, head)
    written = sealer.seal(envelope.DIRECTORY_NUMBER, frame)
    assert sealer.head + written + envelope.footer(64, len(written)) == raw(vector)


@pytest.mark.parametrize(("cipher", "vector"), CIPHERS)
def test_a_sealed_record_is_read(cipher: int, vector: str) -> None:
    keys = code_keys(encrypted=cipher == 1)
    body, digest = envelope.unseal_record(keys, envelope.Kind.MARK, NAME, raw(vector))
    assert body == VECTORS["record_body"].encode()
    assert digest == raw(f"{vector}_digest")
    fields = {row["field"]: row["default"] for row in table("MarkBody")}
    assert list(json.loads(body)) == list(fields)[:3]  # the record is older than the fields that were added
    assert all(fields[added] for added in list(fields)[3:])


@pytest.mark.parametrize(("cipher", "vector"), CIPHERS)
def test_whatever_is_changed_in_a_record_is_found(cipher: int, vector: str) -> None:
    """Every byte of it, its name, its kind; and every length it could be cut or drawn to."""
    keys = code_keys(encrypted=cipher == 1)
    good = raw(vector)

    def opens(data: bytes, name: str = NAME, kind: envelope.Kind = envelope.Kind.MARK) -> bool:
        try:
            envelope.unseal_record(keys, kind, name, data)
        except CorruptionError:
            return False
        except envelope.UnsupportedError as error:
            return error.kind != "vault.newer-format"
        return True

    assert opens(good)
    for at in range(len(good)):
        for bit in (1, 128):
            assert not opens(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :]), f"byte {at}"
    assert not any(opens(good[:length]) for length in range(len(good)))
    assert not opens(good + b"\0")
    assert not opens(good, name=NAME.replace("000001", "000002"))
    assert not opens(good, kind=envelope.Kind.ITEM)
    other = vault_keys.derive(MASTER, bytes(16), encrypted=cipher == 1)
    with pytest.raises(CorruptionError):
        envelope.unseal_record(other, envelope.Kind.MARK, NAME, good)


@pytest.mark.parametrize("number", [0, 1, 0xFFFF_FFFF, 1 << 40])
@pytest.mark.parametrize("cipher", [0, 1])
def test_a_section_is_sealed_under_its_number(cipher: int, number: int) -> None:
    sealer = envelope.open_sealer(code_keys(encrypted=cipher == 1), envelope.Kind.MARK, NAME, head_of(cipher))
    stored = sealer.seal(number, b"section")
    assert stored == sealed_by_hand(cipher, number, b"section")
    assert sealer.unseal(number, stored) == b"section"
    with pytest.raises(CorruptionError):
        sealer.unseal(number + 1, stored)


def test_blocks_of_a_pack_are_sealed_like_its_sections() -> None:
    """The core seals blocks, Python sections: the slot is the number for both (section 5.2)."""
    sealer = envelope.open_sealer(code_keys(encrypted=True), envelope.Kind.MARK, NAME, head_of(1))
    offsets = np.array([0, 3, 8], np.uint64)
    found = kernel.encrypt(b"abcdefgh", offsets, key=sealer.key, associated=sealer.associated, first_slot=41)
    assert bytes(found.payload) == sealed_by_hand(1, 41, b"abc") + sealed_by_hand(1, 42, b"defgh")


def test_a_record_as_it_is_written_today() -> None:
    """Salt and write id are drawn for each; the rest is as the document says."""
    keys = code_keys(encrypted=False)
    made: set[bytes] = set()
    for _ in range(2):
        data, digest = envelope.seal_record(keys, envelope.Kind.MARK, NAME, b'{"a":1}')
        made.add(data[16:48])
        head = data[:64]
        key = hkdf(keys.data_key(7), head[16:48], b"blockvault/1 BVLTMARK")
        name = NAME.encode()
        associated = b"blockvault/1\0" + VAULT_ID + head + struct.pack("<H", len(name)) + name
        frame = data[64:-40]
        nonce = bytes(4) + bytes([255]) * 8
        tag = blake3(struct.pack("<Q", len(associated)) + associated + nonce + frame, key=key).digest()[:16]
        assert tag == digest == data[-40:-24]
        assert zstandard.frame_content_size(frame) == 7
        parameters = zstandard.get_frame_parameters(frame)
        assert (parameters.has_checksum, parameters.dict_id) == (False, 0)
        assert zstandard.ZstdDecompressor().decompress(frame) == b'{"a":1}'
        assert struct.unpack("<QQ8s", data[-24:]) == (64, len(frame) + 16, b"BVLTTAIL")
        assert struct.unpack_from("<I", head, 12) == (7,)
    assert len(made) == 2


def test_the_digest_of_a_chunk() -> None:
    """XXH3-128 with the vault's seed, canonical order, over the padded chunk (section 14.2)."""
    import xxhash

    seed: Any = VECTORS["digest_seed"]
    chunk = b"abc".ljust(16_384, b"\0")
    found = kernel.identify_plain(chunk + bytes(16_384), chunk_size=16_384, seed=seed, id_key=None)
    assert bytes(np.asarray(found.digests)[0]) == xxhash.xxh3_128(chunk, seed).digest()
    assert bytes(np.asarray(found.digests)[1]) == bytes(16)


def test_blocks_decode_with_plain_zstandard() -> None:
    """What `encode` makes: raw, frame or frame with its base as raw-content dictionary (section 8.2)."""
    rng = np.random.default_rng(7)
    size = 65_536
    noise = rng.integers(0, 256, size, np.uint8).tobytes()
    text = (b"the quick brown fox jumps over the lazy dog %d\n" * 2_000)[:size]
    edited = noise[:1_000] + b"edited" + noise[1_006:]
    plain_batch = kernel.identify_plain(noise + text + edited, chunk_size=size, seed=0, id_key=None)
    blocks = kernel.encode(
        plain_batch,
        np.arange(3, dtype=np.uint32),
        level=1,
        bases=plain_batch,
        base_rows=np.array([-1, -1, 0], np.int32),
        delta_limits=np.array([0, 0, size // 2], np.uint32),
        cancel=None,
    )
    numbers = {row["codec"]: int(row["number"]) for row in table("codecs")}
    assert np.asarray(blocks.codecs).tolist() == [numbers["RAW"], numbers["ZSTD"], numbers["DELTA"]]
    offsets = np.asarray(blocks.offsets).tolist()
    stored = [bytes(blocks.payload[a:b]) for a, b in pairwise(offsets)]
    assert stored[0] == noise
    for block in stored[1:]:
        parameters = zstandard.get_frame_parameters(block)
        assert (parameters.content_size, parameters.has_checksum, parameters.dict_id) == (size, False, 0)
    assert zstandard.ZstdDecompressor().decompress(stored[1]) == text
    base = zstandard.ZstdCompressionDict(noise, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    assert zstandard.ZstdDecompressor(dict_data=base).decompress(stored[2]) == edited
    assert len(stored[2]) < 100
