"""A small true vault, its objects taken apart, and the means to seal them again with other content.

A stranger owns the keys of the vault that he gives away: whatever he writes has true tags.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helpers.site import CHUNK, Site

from blockvault.errors import BlockVaultError
from blockvault.format import records
from blockvault.format.envelope import (
    DIRECTORY_NUMBER,
    FOOTER_BYTES,
    HEAD_BYTES,
    TAG_BYTES,
    Kind,
    directory_range,
    footer,
    new_sealer,
    open_sealer,
    pack_frame,
    seal_record,
)
from blockvault.format.layers import ENTRY, ENTRY_SEGMENT, encode_root
from blockvault.model import LayerRef, Secret, VaultKeys
from blockvault.store.folder import open_folder

KINDS = {
    "points": Kind.POINT, "marks": Kind.MARK, "items": Kind.ITEM, "policies": Kind.POLICY, "config": Kind.CONFIG,
    "origins": Kind.ORIGIN, "leases": Kind.LEASE, "index": Kind.INDEX, "packs": Kind.PACK, "layers": Kind.LAYER,
}  # fmt: skip


def kind_of(name: str) -> Kind:
    return KINDS[name.removeprefix("main/").split("/")[0]]


@dataclass
class Opened:
    """A sealed object taken apart: what lies before the directory, and the directory's plain bytes."""

    name: str
    body: bytes  # from the head on, as it is stored
    plain: bytes


class World:
    """`vault` is a folder that nobody changes; work on a copy of it."""

    def __init__(self, root: Path, *, secret: Secret | None = None) -> None:
        self.root = root
        with Site(root / "site", secret=secret) as site:
            image = site.image("disk", 40 * CHUNK, 3)
            with image.open("r+b") as file:
                file.truncate(48 * CHUNK + 100)
            site.take(image)
            with image.open("r+b") as file:
                for at in range(5, 40, 7):
                    file.seek(at * CHUNK + 99)
                    file.write(b"changed")
            site.take(image, comment="second", tags={"a": "b"})
            site.vault.assign_policy(["disk"], "default", confirmed=True)
            opened, point = site.vault._session, site.vault.points()[0].point
            assert point is not None
            mark = f"marks/{point.ref.origin}/{point.number:010d}/000001"
            said = records.encode(records.MarkBody(kind="seen", at="2026-01-01T00:00:00.000000Z"))
            opened.store.put_new(mark, seal_record(opened.keys, Kind.MARK, mark, said)[0])
        self.image = image
        self.vault = root / "vault"
        shutil.copytree(site.folder, self.vault)
        shutil.rmtree(self.vault / "lmdb")
        self.folder = open_folder(str(self.vault), secret)
        self.keys: VaultKeys = self.folder.keys
        self.names = sorted(
            str(path.relative_to(self.vault))
            for path in self.vault.rglob("*")
            if path.is_file()
            and path.name not in ("vault.json", "lmdb.lock")
            and path.parent.name not in ("keys", "tmp")
        )

    def named(self, part: str) -> list[str]:
        return [name for name in self.names if name.removeprefix("main/").startswith(part)]

    def take_apart(self, name: str) -> Opened:
        data = (self.vault / name).read_bytes()
        offset, length = directory_range(name, len(data), data[-FOOTER_BYTES:])
        sealer = open_sealer(self.keys, kind_of(name), name, data[:HEAD_BYTES])
        frame = sealer.unseal(DIRECTORY_NUMBER, data[offset : offset + length])
        import zstandard

        return Opened(name, data[:offset], zstandard.ZstdDecompressor().decompress(frame))

    def seal(self, name: str, plain: bytes, body: bytes | None = None, *, frame: bytes | None = None) -> bytes:
        """An object with that directory; `body` is what comes before, head included. Returns its bytes."""
        if body is None:
            sealer = new_sealer(self.keys, kind_of(name), name)
            body = sealer.head
        else:
            sealer = open_sealer(self.keys, kind_of(name), name, body[:HEAD_BYTES])
        stored = sealer.seal(DIRECTORY_NUMBER, frame if frame is not None else pack_frame(plain))
        return body + stored + footer(len(body), len(stored))

    def layer_with(self, segments: dict[int, bytes], name: str, *, chunk_size: int = CHUNK, chunks: int = 0) -> bytes:
        """A layer of segments given plain, by cell."""
        sealer = new_sealer(self.keys, Kind.LAYER, name)
        body = sealer.head
        entries = np.zeros(len(segments), dtype=ENTRY)
        for i, (cell, plain) in enumerate(sorted(segments.items())):
            stored = sealer.seal(cell, pack_frame(plain))
            tag = np.frombuffer(stored[-TAG_BYTES:], np.uint8)
            entries[i] = (cell, 1, ENTRY_SEGMENT, len(body), len(stored), 1, tag)
            body += stored
        directory = sealer.seal(DIRECTORY_NUMBER, pack_frame(encode_root(chunk_size, chunks, entries)))
        return body + directory + footer(len(body), len(directory))

    def segment_plain(self, name: str) -> dict[int, bytes]:
        """The plain segments of a layer, by cell."""
        import zstandard

        from blockvault.format.layers import decode_root

        whole = self.take_apart(name)
        sealer = open_sealer(self.keys, Kind.LAYER, name, whole.body[:HEAD_BYTES])
        _, _, entries = decode_root(name, whole.plain, len(whole.body))
        found = {}
        for entry in entries[entries["kind"] == ENTRY_SEGMENT]:
            at, length, cell = int(entry["offset"]), int(entry["length"]), int(entry["cell"])
            frame = sealer.unseal(cell, whole.body[at : at + length])
            found[cell] = zstandard.ZstdDecompressor().decompress(frame)
        return found

    def copy(self, to: Path) -> Path:
        """A copy to change: files are hard links, so put new ones in place of them."""
        shutil.copytree(self.vault, to, copy_function=os.link)
        (to / "vault.json").unlink()
        shutil.copy2(self.vault / "vault.json", to / "vault.json")
        (to / "lmdb.lock").unlink(missing_ok=True)
        return to

    def put(self, vault: Path, name: str, data: bytes) -> None:
        """Put an object in place; points that list a changed layer name the new one's tag."""
        path = vault / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        if kind_of(name) is Kind.LAYER and name in self.names:
            tag = data[-FOOTER_BYTES - TAG_BYTES : -FOOTER_BYTES].hex()
            for point in self.named("points"):
                opened = self.take_apart(point)
                body = records.decode(point, opened.plain, records.PointBody)
                for disk in body.disks:
                    for at, layer in enumerate(disk.layers):
                        if layer.name == Path(name).name:
                            disk.layers[at] = records.LayerBody(layer.name, tag, layer.pieces)
                self.put(vault, point, self.seal(point, records.encode(body)))


def ref_of(name: str, data: bytes) -> LayerRef:
    return LayerRef(bytes.fromhex(Path(name).name), data[-FOOTER_BYTES - TAG_BYTES : -FOOTER_BYTES], 1)  # type: ignore[arg-type]


def allowed(error: BlockVaultError) -> bool:
    from blockvault.errors import InternalError

    return not isinstance(error, InternalError)
