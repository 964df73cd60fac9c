"""R13: what an encrypted vault tells whoever can read its folder. All of it is read and searched.

Not found: words, paths, content, digests of chunks, ids of blocks, digests of runs, keys, secrets, and no compressed
block of an unencrypted twin. Found, as `docs/format.md` says in section 18, and no more of it: the first 8 bytes of the
ids of full blocks, in LMDB alone; pid and time in `lmdb.lock`; labels of key slots.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from blake3 import blake3
from helpers import forge
from helpers.files import listing, noise, text, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.clock import utc_now
from blockvault.failpoints import Hook
from blockvault.format.paper import read_paper
from blockvault.model import Codec, Secret

SetHook = Callable[[Hook | None], None]
Files = dict[str, bytes]
Secrets = dict[str, list[bytes]]

NAME, DISK, TAG, COMMENT = "secret-item-name", "Hidden-Disk-Stem", "classified-tag", "a comment nobody may read"
HOST, MARKER = "host-of-the-secrets", b"a sentence in the disk image that repeats "
PASSPHRASE = b"the passphrase itself"
_PLACES = (100, CHUNK // 2, CHUNK - 24)


def tell_all(site: Site, hook: SetHook) -> tuple[Files, set[bytes]]:
    """Points whose every word and byte is to be kept, in two epochs; all files of the vault at rest, and leases.

    Also returned: every chunk that the image ever held. Full, delta, raw and zero blocks, a dedup hit, two keys.
    """
    image = site.root / f"{DISK}.img"
    image.write_bytes(noise(4 * CHUNK, 1) + text(4 * CHUNK, 2) + (MARKER * CHUNK)[: 2 * CHUNK] + bytes(CHUNK))
    chunks: set[bytes] = set()
    leases: Files = {}

    def take(**options: object) -> None:
        data = image.read_bytes()
        chunks.update(data[at : at + CHUNK].ljust(CHUNK, b"\0") for at in range(0, len(data), CHUNK))
        site.take(image, comment=COMMENT, **options)

    hook(lambda name: leases.update(files_of(site.folder / "leases")) if name == "transfer.packs" else None)
    take(name=NAME, tags={TAG: TAG})
    write_at(image, CHUNK, noise(CHUNK, 2))
    write_at(image, 5 * CHUNK + 9, b"an edit")
    write_at(image, 10 * CHUNK, image.read_bytes()[:CHUNK])
    take()
    if site.secret is not None:
        site.vault.keys.add(Secret(passphrase=PASSPHRASE), label="a label is shown", now=utc_now())
        site.vault.keys.rotate(now=utc_now())
        site.reopen()
    write_at(image, 2 * CHUNK, text(CHUNK, 7))
    take()
    hook(None)
    site.vault.set_item(NAME, comment=COMMENT)
    assert leases
    return {**files_of(site.folder), **{f"lease of {name}": data for name, data in leases.items()}}, chunks


def files_of(folder: Path) -> Files:
    return {path.removeprefix(f"{folder}/"): data for path, data in listing(folder).items()}


def to_keep(site: Site, chunks: set[bytes]) -> Secrets:
    """All that must not be found, by what it is."""
    session = forge.session(site)
    keys, seed = session.keys, session.keys.digest_seed
    digests = [f(chunk) for chunk in chunks for f in (lambda c: xxhash.xxh3_128(c, seed).digest(), plain_digest)]
    secret = site.secret.key_file if site.secret is not None else None
    return {
        "words": [word.encode() for word in (NAME, DISK, TAG, COMMENT, HOST, str(site.root), str(site.root)[1:])],
        "content": [part for chunk in chunks for at in _PLACES if len(set(part := chunk[at : at + 24])) > 4],
        "digests of chunks": digests + [digest[::-1] for digest in digests],
        "ids of blocks": [blake3(chunk, key=keys.id_key).digest() for chunk in chunks],
        "plain hashes": [blake3(chunk).digest() for chunk in chunks],
        "digests of runs": list(run_digests(site)),
        "keys": [keys.id_key, keys.run_key, struct.pack("<Q", seed), *(keys.data_key(epoch) for epoch in range(3))],
        "secrets": [PASSPHRASE, *([secret, session.folder.opened.master] if secret else [])],
    }


def plain_digest(chunk: bytes) -> bytes:
    return xxhash.xxh3_128(chunk).digest()


def run_digests(site: Site) -> Iterator[bytes]:
    for label in site.copies:
        (disk,) = forge.point(site, label).disks
        for layer in range(len(disk.layers)):
            for segment in forge.segments(site, disk, layer).values():
                yield from (row.tobytes() for row in segment.run_digest)


def found_in(files: Files, secrets: Secrets) -> set[tuple[str, str]]:
    """What was found, and in which file; as bytes or in hexadecimal, in content or name."""
    found = set()
    for name, data in files.items():
        lower = data.lower()
        for what, all_of_it in secrets.items():
            for secret in all_of_it:
                if secret in data or secret in name.encode() or (len(secret) >= 8 and secret.hex().encode() in lower):
                    found.add((what, name))
    return found


def test_an_encrypted_vault_tells_nothing(
    make_site: Callable[..., Site], hook: SetHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    site, twin = make_site(secret=KEY_FILE), make_site()
    files, chunks = tell_all(site, hook)
    secrets = to_keep(site, chunks)
    assert all(len(secrets[what]) > 4 for what in ("content", "digests of chunks", "ids of blocks", "words"))
    tell_all(twin, hook)
    secrets["compressed blocks"] = [data[at : at + 32] for data in stored_blocks(twin) for at in (20, len(data) // 2)]
    sheet = site.vault.keys.export(now=utc_now())
    secrets["the paper key"] = [line.encode() for line in site.vault.keys.export_lines()]
    assert read_paper(sheet) == forge.session(site).folder.opened.master
    assert found_in(files, secrets) == set()
    site.sound()


def test_without_encryption_the_search_finds(site: Site, hook: SetHook, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail: what no compression hides lies open in a plain vault."""
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    files, chunks = tell_all(site, hook)
    secrets = to_keep(site, chunks)
    secrets["compressed blocks"] = [data[20:52] for data in stored_blocks(site)]
    assert {"content", "ids of blocks", "digests of runs", "compressed blocks"} <= {
        what for what, _ in found_in(files, secrets)
    }
    assert b'"master_key"' in files["vault.json"]


def stored_blocks(site: Site) -> list[bytes]:
    """The stored bytes of every block of an unencrypted vault that has some length."""
    found = []
    for pack in forge.packs(site):
        table, data = forge.table(site, pack), forge.pack_path(site, pack).read_bytes()
        found += [
            data[offset : offset + length]
            for offset, length in zip(table.offsets.tolist(), table.lengths.tolist(), strict=False)
            if length >= 128
        ]
    assert found
    return found


def test_of_ids_lmdb_has_the_first_eight_bytes_of_full_blocks_and_no_more(
    make_site: Callable[..., Site], hook: SetHook
) -> None:
    site = make_site(secret=KEY_FILE)
    files, _ = tell_all(site, hook)
    ids: dict[bool, list[bytes]] = {True: [], False: []}
    for pack in forge.packs(site):
        table = forge.table(site, pack)
        for row, codec in zip(table.ids, table.codecs.tolist(), strict=True):
            ids[codec != Codec.DELTA].append(np.asarray(row).tobytes())
    assert len(ids[True]) > 8
    assert ids[False], "a delta block, whose id the index never has"
    lmdb = {name: data for name, data in files.items() if name == "lmdb/data.mdb"}
    assert all(block[:8] in lmdb["lmdb/data.mdb"] for block in ids[True])
    others = {name: data for name, data in files.items() if name not in lmdb}
    full, deltas = [block[:8] for block in ids[True]], [block[:8] for block in ids[False]]
    rest = [block[at : at + 8] for block in ids[True] + ids[False] for at in (4, 8, 16, 24)]
    assert found_in(others, {"full": full, "deltas": deltas, "rest": rest}) == set()
    assert found_in(lmdb, {"deltas": deltas, "rest": rest}) == set()
    assert found_in(lmdb, {"full": full}) == {("full", "lmdb/data.mdb")}


def test_what_lies_readable_beside_the_sealed_objects_is_what_the_document_says(
    make_site: Callable[..., Site], hook: SetHook
) -> None:
    site = make_site(secret=KEY_FILE)
    files, _ = tell_all(site, hook)
    readable = {name: data for name, data in files.items() if not data.startswith(b"BVLT")}
    assert set(readable) == {"vault.json", "keys/0", "keys/1", "lmdb.lock", "lmdb/data.mdb", "lmdb/lock.mdb"}
    assert set(json.loads(readable["lmdb.lock"])) == {"pid", "since"}
    header = json.loads(readable["vault.json"].split(b"\n")[0])
    assert header["master_key"] is None
    assert set(header) == {
        "magic", "format_version", "vault_id", "chunk_size", "encryption", "fingerprint", "created", "master_key",
    }  # fmt: skip
    slots = [json.loads(readable[name]) for name in ("keys/0", "keys/1")]
    assert [slot["label"] for slot in slots] == ["first", "a label is shown"]
