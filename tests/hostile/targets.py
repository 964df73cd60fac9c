"""What is fuzzed: every reader of the bytes of a vault, each with true tags around hostile content."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blake3
import numpy as np
from helpers.site import CHUNK, KEY_FILE

from blockvault import keys as vault_keys
from blockvault.cli.commands.point_show import _facts
from blockvault.cli.policy_views import policy_facts, policy_fields
from blockvault.cli.render import Output, to_json
from blockvault.cli.views import point_fields
from blockvault.clock import utc_now
from blockvault.engine.blocks import fetch
from blockvault.engine.structure import Structure
from blockvault.errors import BlockVaultError, InternalError
from blockvault.format import jsontext, records
from blockvault.format.envelope import (
    DIRECTORY_NUMBER,
    HEAD_BYTES,
    Kind,
    footer,
    new_sealer,
    open_sealer,
    seal_record,
    unseal_record,
)
from blockvault.format.index import decode_index
from blockvault.format.layers import decode_root, decode_segment, encode_segment, merge_segments, recut_segment
from blockvault.format.outlines import decode_outline, encode_outline, joined, outline_of_segment, without
from blockvault.format.tables import decode_table
from blockvault.ids import ItemId, OriginId, PointId
from blockvault.model import PointBrief, PointDisk, PointInfo, Secret, Tier
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import Policy, PolicyRevision
from blockvault.policy.schedule import parse_schedule
from blockvault.policy.selection import parse_month_day, parse_year_day
from blockvault.policy.simulate import simulate
from blockvault.store import sorted_segments
from blockvault.store.briefs import block_name, decode_block
from blockvault.store.folder import open_folder
from blockvault.store.index import Index
from blockvault.store.manifest import Manifest
from blockvault.store.packs import PackShelf
from blockvault.vault import Vault
from hostile.fuzz import Target
from hostile.world import World, ref_of

Make = Callable[[Path], Target]


def _header(root: Path) -> Target:
    world = World(root)
    folder = world.copy(root / "work")
    true = (world.vault / "vault.json").read_bytes()

    def run(data: bytes) -> None:
        line = data[1:].partition(b"\n")[0]
        text = data[1:] if data[:1] == b"\1" else line + b"\n" + blake3.blake3(line).hexdigest().encode() + b"\n"
        (folder / "vault.json").write_bytes(text)
        open_folder(str(folder), None)

    (folder / "vault.json").chmod(0o600)
    return Target("header", run, [b"\0" + true.partition(b"\n")[0], b"\1" + true])


def _slots(root: Path) -> Target:
    world = World(root, secret=KEY_FILE)
    true = (world.vault / "keys" / "0").read_bytes()
    vault_id = world.keys.vault_id
    usual = vault_keys.ARGON_MEMORY_KIB
    vault_keys.ARGON_MEMORY_KIB = 64
    cheap = vault_keys.wrap(bytes(32), vault_id, 0, Secret(passphrase=b"x"), label="", created="")
    vault_keys.ARGON_MEMORY_KIB = usual

    def run(data: bytes) -> None:
        slot = vault_keys.read_slot(0, data)
        vault_keys.open_slot(slot, vault_id, KEY_FILE)
        if b"passphrase" not in data:
            return
        with contextlib.suppress(ValueError, RecursionError):
            costs = json.loads(data)
            if isinstance(costs, dict) and costs.get("memory_kib") not in (64, 8, None):
                return  # what is within bounds may take its time: docs/format.md, section 17
        vault_keys.open_slot(slot, vault_id, Secret(passphrase=b"x"))

    return Target("slots", run, [true, cheap])


_RECORDS: list[tuple[Kind, str, type]] = [
    (Kind.POINT, "points", records.PointBody),
    (Kind.MARK, "marks", records.MarkBody),
    (Kind.ITEM, "items", records.ItemBody),
    (Kind.CONFIG, "config", records.ConfigBody),
    (Kind.ORIGIN, "origins", records.OriginBody),
    (Kind.LEASE, "leases", records.LeaseBody),
    (Kind.POLICY, "policies", records.PolicyBody),
]


def show(info: PointInfo) -> str:
    """All that `point show` would print of a point, and as JSON; a terminal must obey nothing of it."""
    output = Output(color="never")
    output.results = io.StringIO()
    output.facts(f"point {info.label} of item '{info.item}'", _facts(info))
    output.table(["a", ">b"], [[info.comment, info.label]])
    text: str = output.results.getvalue()
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in text), ascii(text)
    json.dumps(to_json(point_fields(info)))
    return text


_GOLD = PolicyRevision(
    Policy(
        "gold",
        parse_schedule("weekly wed,sun 02:30", zone="Europe/Berlin"),
        RetentionRules(
            keep_weekly=3,
            keep_monthly=3,
            keep_yearly=3,
            weekly_on=Weekday.SUNDAY,
            monthly_on=parse_month_day("last day"),
            yearly_on=parse_year_day("first sunday of may"),
        ),
    ),
    datetime(2026, 1, 1, tzinfo=UTC),
)


def show_policy(revision: PolicyRevision) -> None:
    """All that `policy show` and `simulate` would print of a policy, and as JSON."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    output = Output(color="never")
    output.results = io.StringIO()
    output.facts(f"policy '{revision.policy.name}'", policy_facts(revision.policy, revision, [], now))
    text: str = output.results.getvalue()
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in text), ascii(text)
    json.dumps(to_json(policy_fields(revision.policy, revision, [], now)))
    assert simulate(revision.policy, now, 2).rows()


def _info(point: object) -> PointInfo:
    from blockvault.model import Point

    assert isinstance(point, Point)
    return PointInfo(
        point.number, str(point.number), point.id, point.item_name, point.taken, Tier.VAULT, point.consistency,
        point.size, point.statistics, point.churn_source, point.retain_until, None, point.tags, point.comment, point,
        freeze_ms=point.freeze_ms, skew_ms=point.skew_ms, group=point.group,
    )  # fmt: skip


def _records(root: Path) -> Target:
    world = World(root)
    lease = records.LeaseBody("1" * 32, "2" * 32, "transfer", "web", 7, "boot", "2026-01-01T00:00:00Z")
    seeds = [bytes([5]) + records.encode(lease)]
    for number, (_, part, _) in enumerate(_RECORDS[:5]):
        seeds += [bytes([number]) + world.take_apart(name).plain for name in world.named(part)]
    seeds += [bytes([6]) + world.take_apart(name).plain for name in world.named("policies")]
    seeds.append(bytes([6]) + records.encode(records.policy_to_body(_GOLD)))

    def run(data: bytes) -> None:
        kind, part, model = _RECORDS[data[0] % len(_RECORDS) if data else 0]
        name = f"{part}/x"
        body, tag = unseal_record(world.keys, kind, name, world.seal(name, data[1:]))
        decoded = records.decode(name, body, model)
        if isinstance(decoded, records.PointBody):
            show(_info(records.point_from_body(name, decoded, tag)))
        if isinstance(decoded, records.ItemBody):
            records.item_from_body(name, decoded)
        if isinstance(decoded, records.PolicyBody):
            show_policy(records.policy_from_body(name, decoded))

    return Target("records", run, seeds)


def _envelope(root: Path) -> Target:
    world = World(root)
    name = world.named("marks")[0]
    true = (world.vault / name).read_bytes()
    frame = open_sealer(world.keys, Kind.MARK, name, true[:64]).unseal(DIRECTORY_NUMBER, true[64:-24])

    def run(data: bytes) -> None:
        if data[:1] == b"\0":
            unseal_record(world.keys, Kind.MARK, name, data[1:])
            return
        head = data[1 : 1 + HEAD_BYTES]
        sealer = open_sealer(world.keys, Kind.MARK, name, head)
        stored = sealer.seal(DIRECTORY_NUMBER, data[1 + HEAD_BYTES :])
        unseal_record(world.keys, Kind.MARK, name, head + stored + footer(HEAD_BYTES, len(stored)))

    return Target("envelope", run, [b"\0" + true, b"\1" + true[:64] + frame])


def _tables(root: Path) -> Target:
    world = World(root)
    work = world.copy(root / "work")
    name = f"main/packs/{'ab' * 16}"[:-32] + "ab/" + "ab" * 16 + ".0-00000000"
    store = open_folder(str(work), None).store

    def run(data: bytes) -> None:
        offset = HEAD_BYTES
        if len(data) >= 20:
            slots, bases = struct.unpack_from("<II", data)
            column = data[20 + 16 * bases + 32 * slots :][: 4 * slots]
            offset += int(np.frombuffer(column[: len(column) // 4 * 4], "<u4").sum(dtype=np.int64))
        if offset > 1 << 40:
            decode_table(name, data, offset)
            return
        sealer = new_sealer(world.keys, Kind.PACK, name)
        stored = world.seal(name, data, sealer.head)[HEAD_BYTES:-24]
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(sealer.head)
            file.seek(offset)
            file.write(stored + footer(offset, len(stored)))
        shelf = PackShelf(store, world.keys)
        pack = bytes.fromhex("ab" * 16)
        table = shelf.reader(pack).table  # type: ignore[arg-type]
        slots = np.arange(min(64, table.slot_count + 1), dtype=np.int64)
        for size in {CHUNK, table.chunk_size}:
            if size in (CHUNK, 1 << 16):
                fetch(shelf, world.keys, [pack], np.zeros(len(slots), np.int64), slots, size)  # type: ignore[list-item]
        shelf.close()

    return Target("tables", run, [world.take_apart(pack).plain for pack in world.named("packs")])


def _walk(world: World, shelf: PackShelf, disk: PointDisk, store: object) -> None:
    point: Any = SimpleNamespace(item_id="item", disks=(disk,))
    by_layer = Structure(store, world.keys, shelf, Monitor(), lambda *_: None)  # type: ignore[arg-type]
    assert len(list(by_layer.doubtful([("1", point)]))) <= 1
    manifest = Manifest(store, world.keys, disk)  # type: ignore[arg-type]
    try:
        for cell in manifest.cells_with_segments()[:4]:
            found = manifest.cell(cell)
            found.check_runs(shelf, world.keys.run_key)
            rows = np.flatnonzero(found.kind == 3)[:32]
            fetch(shelf, world.keys, found.packs, found.pack[rows], found.slot[rows], disk.chunk_size)
    finally:
        manifest.close()


def _roots(root: Path) -> Target:
    world = World(root)
    work = world.copy(root / "work")
    store = open_folder(str(work), None).store
    whole = world.take_apart(world.named("layers")[0])
    shelf = PackShelf(store, world.keys)

    def run(data: bytes) -> None:
        sealed = world.seal(whole.name, data, whole.body)
        world.put(work, whole.name, sealed)
        chunk_size, chunks, _ = decode_root(whole.name, data, len(whole.body))
        for size in (48 * CHUNK + 100, min(chunks * chunk_size, 1 << 62)):
            with contextlib.suppress(BlockVaultError):
                _walk(world, shelf, PointDisk("disk", "x", size, CHUNK, (ref_of(whole.name, sealed),)), store)

    return Target("roots", run, [whole.plain])


def _segments(root: Path) -> Target:
    world = World(root)
    work = world.copy(root / "work")
    store = open_folder(str(work), None).store
    shelf = PackShelf(store, world.keys)
    name = "main/layers/" + "cd" * 16
    true = [world.segment_plain(layer)[0] for layer in world.named("layers")]
    other = decode_segment(name, true[0])

    def run(data: bytes) -> None:
        sealed = world.layer_with({0: data}, name, chunks=49)
        (work / name).unlink(missing_ok=True)
        (work / name).write_bytes(sealed)
        segment = decode_segment(name, data)
        _walk(world, shelf, PointDisk("disk", "x", 48 * CHUNK + 100, CHUNK, (ref_of(name, sealed),)), store)
        for merged in (merge_segments([segment, other], 49), merge_segments([other, segment])):
            again = recut_segment(merged, 0, world.keys.run_key, lambda pack: shelf.reader(pack).table.ids)
            decode_segment(name, encode_segment(again))

    return Target("segments", run, true)


def _indexes(root: Path) -> Target:
    world = World(root)
    index = Index(str(root / "lmdb"), "x", now=utc_now(), note=str(root / "note"))
    name = world.named("index")[0]

    def run(data: bytes) -> None:
        body, _ = unseal_record(world.keys, Kind.INDEX, name, world.seal(name, data))
        index.add_blocks(*decode_index(name, body), "o/1")
        index.find_blocks(np.zeros((2, 32), np.uint8))

    return Target("indexes", run, [world.take_apart(index_name).plain for index_name in world.named("index")])


def _outlines(root: Path) -> Target:
    world = World(root)
    name = world.named("layers")[0]
    seeds = [
        encode_outline(outline_of_segment(cell, decode_segment(name, plain)), bytes(16), 1000)
        for name in world.named("layers")
        for cell, plain in world.segment_plain(name).items()
    ]

    def run(data: bytes) -> None:
        sealed, _ = seal_record(world.keys, Kind.OUTLINE, name, data)
        outline, _, _ = decode_outline(name, unseal_record(world.keys, Kind.OUTLINE, name, sealed)[0])
        joined([outline], without(outline.live, outline.stated))

    return Target("outlines", run, seeds)


def _briefs(root: Path) -> Target:
    world = World(root)
    name = f"briefs/{'ab' * 16}/00000000"
    moment = utc_now()
    seed = [PointBrief(OriginId("ab" * 16), 3, PointId("cd" * 16), ItemId("ef" * 16), "disk", moment, moment, None)]

    def run(data: bytes) -> None:
        sealed, _ = seal_record(world.keys, Kind.BRIEFS, name, data)
        for brief in decode_block(world.keys, name, sealed):
            block_name(brief)

    return Target("briefs", run, [jsontext.encode(seed)])


# --- whole vaults ------------------------------------------------------------------------------------------------


def work_through(vault_folder: Path, state: Path, out: Path, image: Path | None) -> list[str]:
    """Everything that a person may do with a vault; the kinds of what was refused. Raises what no one foresaw."""
    refused: list[str] = []

    def attempt(verb: Callable[[], object]) -> object:
        try:
            return verb()
        except BlockVaultError as error:
            if isinstance(error, InternalError):
                raise
            refused.append(error.kind)
            return None

    with contextlib.ExitStack() as stack:
        vault = attempt(lambda: stack.enter_context(Vault.open(str(vault_folder), state_dir=str(state))))
        if not isinstance(vault, Vault):
            return refused
        points = attempt(vault.points)
        attempt(vault.items)
        attempt(vault.policies)
        attempt(lambda: [vault.policy_of(item) for item in vault.items()])
        attempt(vault.decisions)
        attempt(vault.plan_prune)
        attempt(lambda: vault.verify(quick=True))
        attempt(vault.verify)
        attempt(vault.usage)
        for info in points[:3] if isinstance(points, list) else []:
            show(info)
            attempt(lambda info=info: vault.restore(info.label, output=str(out / f"{len(os.listdir(out))}.img")))
            attempt(lambda info=info: vault.diff(info.label))
            if image is not None:
                attempt(lambda info=info: vault.diff(info.label, str(image)))
        if image is not None:
            attempt(lambda: vault.snapshot([str(image)], keep=False))
            attempt(vault.points)
    return refused


def _vaults(root: Path) -> Target:
    world = World(root)
    names = [name for name in world.names if not name.startswith("leases")]
    plain = {name: world.take_apart(name) for name in names}
    layers = world.named("layers")
    seeds = [bytes([at]) + plain[name].plain for at, name in enumerate(names)]
    seeds += [bytes([100 + at]) + world.segment_plain(name)[0] for at, name in enumerate(layers)]

    def run(data: bytes) -> None:
        at = data[0] if data else 0
        work, state, out = root / "run" / "vault", root / "run" / "state", root / "run" / "out"
        shutil.rmtree(root / "run", ignore_errors=True)
        out.mkdir(parents=True)
        world.copy(work)
        if at >= 100:
            name = layers[at % len(layers)]
            world.put(work, name, world.layer_with({0: data[1:]}, name, chunks=49))
        else:
            name = names[at % len(names)]
            world.put(work, name, world.seal(name, data[1:], plain[name].body))
        work_through(work, state, out, world.image)
        assert set(os.listdir(root / "run")) <= {"out", "state", "vault"}, "something lies outside"
        assert sum(file.stat().st_blocks * 512 for file in out.iterdir()) < 16 << 20

    return Target("vaults", run, seeds, slow=True)


def patched(pages: bytes, data: bytes) -> bytes:
    """LMDB's pages with patches laid over them: page, offset in units of 2, length, then as many bytes."""
    content = bytearray(pages)
    at = 0
    while at + 3 < len(data):
        page, offset, length = data[at], data[at + 1] * 2, data[at + 2] % 16 + 1
        begin = (page % max(1, len(content) // 4096)) * 4096 + offset
        content[begin : begin + length] = data[at + 3 : at + 3 + length].ljust(length, b"\xff")
        at += 3 + length
    return bytes(content[: len(pages)])


def _lmdb(root: Path) -> Target:
    world = World(root)
    made = world.copy(root / "made")
    with Vault.open(str(made), state_dir=str(root / "made-state")) as vault:
        vault.points()
    pages = (made / "lmdb" / "data.mdb").read_bytes()

    def run(data: bytes) -> None:
        shutil.rmtree(root / "run", ignore_errors=True)
        work = world.copy(root / "run")
        (work / "lmdb").mkdir()
        (work / "lmdb" / "data.mdb").write_bytes(patched(pages, data))
        with Vault.open(str(work), state_dir=str(root / "run" / "state")) as vault:
            assert len(vault.points()) == 2

    seeds = [bytes([page, place, 7, *[255] * 8]) for page in range(8) for place in (8, 12, 20)]
    return Target("lmdb", run, seeds, slow=True)


def _sorted(root: Path) -> Target:
    """A sorted segment under a name that LMDB lists: as it is, or with a header that is true of what lies behind it."""
    folder = root / "sorted"
    folder.mkdir(parents=True)
    keys = np.arange(1, 601, dtype=np.uint64) << np.uint64(50)
    name = sorted_segments.write_segment(str(folder), "1:2", iter([np.stack((keys, keys), axis=1)]), 600)
    path = folder / f"sorted-{name.hex()}"
    true = path.read_bytes()

    def run(data: bytes) -> None:
        content = data[1:]
        if data[:1] == b"\1" and len(content) >= 24:
            pages = (len(content) - 4096) // 4616
            count = int.from_bytes(content[16:24], "little")
            fences = content[4096 + 4608 * pages :][: 8 * -(-count // 256)] if pages > 0 else b""
            content = sorted_segments._header("1:2", name, count, fences) + content[56:]
        path.write_bytes(content)
        with contextlib.suppress(sorted_segments.UnusableError):
            segment = sorted_segments.SortedSegment(str(folder), "1:2", name)
            try:
                rows, places = segment.find(np.concatenate((keys, np.zeros(1, np.uint64), keys[::-1])))
                assert len(rows) == len(places)
                for _ in sorted_segments.merge([segment.chunks(), iter([np.stack((keys, keys), axis=1)])]):
                    pass
            finally:
                segment.close()

    return Target("sorted", run, [b"\0" + true, b"\1" + true])


def _host(root: Path) -> Target:
    """The host's own state: nobody else writes it, but a disk may have turned its bits."""
    world = World(root)
    states = root / "site" / "state"
    hosts = states / "hosts" / world.keys.vault_id.hex()
    files = [path for path in sorted(hosts.rglob("*")) if path.is_file() and "locks" not in path.parts]
    files = [path for path in files if path.stat().st_size < 1 << 16]
    true = {path: path.read_bytes() for path in files}
    vault = states / "vaults" / "default"

    def run(data: bytes) -> None:
        path = files[data[0] % len(files) if data else 0]
        for other, content in true.items():
            other.write_bytes(content)
        path.write_bytes(data[1:])
        out = root / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with Vault.open(str(vault), state_dir=str(states)) as opened:
            opened.points()
            opened.plan_snapshot([str(world.image)])

    return Target("host", run, [bytes([at]) + true[path] for at, path in enumerate(files)], slow=True)


TARGETS: dict[str, Make] = {
    "header": _header,
    "slots": _slots,
    "records": _records,
    "envelope": _envelope,
    "tables": _tables,
    "roots": _roots,
    "segments": _segments,
    "indexes": _indexes,
    "outlines": _outlines,
    "briefs": _briefs,
    "vaults": _vaults,
    "lmdb": _lmdb,
    "sorted": _sorted,
    "host": _host,
}


def make(name: str, root: Path) -> Target:
    """The target of that name, with a vault of its own under `root`."""
    return TARGETS[name](root)
