"""What the command line wrote is read by a reader that knows `docs/format.md` and nothing else.

The vaults are made as a user makes them, in other processes; each point's disks are kept as plain copies and compared
byte for byte with what the independent reader restores. The tests also look, through that reader, that the vaults hold
what the format can say, and that damaged, moved and forged objects are refused.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import independent_reader as reader
import pytest
import zstandard

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
CHUNK = 16_384
MIB = 1 << 20
CELL = CHUNK * reader.CELL_CHUNKS
BIG = 20 * MIB + 777


@dataclass
class World:
    """A user's folder with a vault in it, and plain copies of what each point was taken of."""

    home: Path
    copies: dict[tuple[int, str], Path] = field(default_factory=dict)

    @property
    def vault(self) -> str:
        return str(self.home / "vault")

    def run(self, *arguments: str) -> dict[str, Any]:
        env = os.environ | {"BLOCKVAULT_STATE_DIR": str(self.home / "state"), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "blockvault", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.home, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def create(self, chunk_size: int) -> None:
        self.run("vault", "create", "plain", "--path", "./vault", "--no-encryption", "--chunk-size", str(chunk_size))

    def snapshot(self, item: str, *disks: str) -> int:
        images = [f"{disk}.img" for disk in disks]
        said = self.run("snapshot", *images, "--name", item, "--vault", "./vault", "--no-keep")
        number: int = said["point"]
        for disk in disks:
            copy = self.home / f"{disk}.{number}.copy"
            subprocess.run(["cp", "--sparse=auto", self.home / f"{disk}.img", copy], check=True)
            self.copies[number, disk] = copy
        return number

    def write(self, disk: str, at: int, data: bytes) -> None:
        with open(self.home / f"{disk}.img", "r+b") as file:
            file.seek(at)
            file.write(data)

    def resize(self, disk: str, size: int) -> None:
        with open(self.home / f"{disk}.img", "ab") as file:
            file.truncate(size)

    def read(self, disk: str) -> bytes:
        return (self.home / f"{disk}.img").read_bytes()


def words(dice: random.Random, size: int) -> bytes:
    """What compresses, but no two chunks of it are equal."""
    return b" ".join(b"%d" % dice.randrange(1000) for _ in range(size))[:size]


def big_disk(world: World, dice: random.Random) -> None:
    """Scattered pages, small edits, growth, shrinkage; runs beyond 1,024 slots; a size that is no multiple."""
    world.resize("big", BIG)
    world.write("big", 0, dice.randbytes(17 * MIB))
    world.write("big", 17 * MIB, words(dice, MIB))
    world.write("big", 18 * MIB, bytes(MIB // 4))
    world.write("big", BIG - 1000, dice.randbytes(1000))
    world.snapshot("big", "big")
    for at in dice.sample(range(17 * MIB // 4096), 40):
        world.write("big", at * 4096, dice.randbytes(4096))
    for _ in range(20):
        world.write("big", dice.randrange(18 * MIB), dice.randbytes(5))
    world.snapshot("big", "big")
    world.resize("big", 23 * MIB)
    world.write("big", 22 * MIB - 5, dice.randbytes(10))
    world.write("big", 2 * MIB, bytes(MIB))
    world.snapshot("big", "big")
    world.resize("big", 11 * MIB + 1)
    world.snapshot("big", "big")
    world.resize("big", BIG)
    world.write("big", 5 * MIB + 7, b"a small edit")
    world.snapshot("big", "big")
    world.snapshot("big", "big")
    world.write("big", 5 * MIB + 9, b"another")
    world.write("big", 2 * MIB + 9, b"where zeros were")
    world.snapshot("big", "big")


def other_disks(world: World, dice: random.Random) -> None:
    """What the big disk holds in another order, three disks in one point, next to no bytes, several cells."""
    big = world.read("big")
    world.resize("again", 0)
    world.write("again", 0, big[8 * CHUNK : 40 * CHUNK] + dice.randbytes(CHUNK) + big[: 9 * CHUNK] + big[:CHUNK])
    world.snapshot("again", "again")
    world.resize("left", 0)
    world.write("left", 0, words(dice, 3 * CHUNK + 100))
    world.resize("right", 0)
    world.write("right", 0, dice.randbytes(CHUNK) * 3)
    for size, text in ((0, b""), (1, b"x"), (CHUNK + 1, b"y"), (0, b"")):
        world.resize("tiny", size)
        world.write("tiny", max(0, size - 1), text)
        world.snapshot("three", "left", "right", "tiny")
        world.write("right", CHUNK, b"%d: not the left one" % size)
    world.resize("wide", 4 * CELL + 4097)
    world.write("wide", CELL - CHUNK, dice.randbytes(2 * CHUNK))
    for chunk in range(0, 400, 2):
        world.write("wide", chunk * CHUNK, b"%d" % chunk)
    world.write("wide", 4 * CELL + 4096, b"z")
    world.snapshot("wide", "wide")
    world.write("wide", 2 * CELL - 5, dice.randbytes(10))
    world.resize("wide", 3 * CELL + 5)
    world.snapshot("wide", "wide")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world, dice = World(tmp_path_factory.mktemp("independent")), random.Random(7)
    world.create(CHUNK)
    big_disk(world, dice)
    other_disks(world, dice)
    world.run("policy", "create", "plain", "--schedule", "hourly 4", "--keep-all", "--vault", "./vault")
    chosen = ("--keep-weekly", "4", "--weekly-on", "sunday", "--keep-yearly", "2", "--yearly-on", "last day of june")
    world.run("policy", "create", "gold", "--schedule", "weekly sun,wed 02:00", *chosen, "--vault", "./vault")
    return world


def extents(path: Path) -> Iterator[tuple[int, int]]:
    with open(path, "rb") as file:
        at, size = 0, os.fstat(file.fileno()).st_size
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # a hole to the end
                return
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, at


def same(one: Path, other: Path) -> bool:
    """Equal in every byte; where both have a hole there is nothing to read."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as first, open(other, "rb") as second:
        for start, end in [*extents(one), *extents(other)]:
            if os.pread(first.fileno(), end - start, start) != os.pread(second.fileno(), end - start, start):
                return False
    return True


def check_copies(world: World, folder: Path) -> None:
    for (number, disk), copy in world.copies.items():
        target = folder / f"{number}.{disk}"
        reader.restore(world.vault, number, disk, str(target))
        assert same(target, copy), f"point {number}, disk {disk}"
        target.unlink()


def test_the_reader_imports_nothing_of_the_program() -> None:
    imports = re.findall(r"^\s*(?:from|import) (\w+)", Path(reader.__file__).read_text(), re.MULTILINE)
    assert set(imports) - sys.stdlib_module_names == {"blake3", "zstandard"}


def test_every_point_comes_back(world: World, tmp_path: Path) -> None:
    check_copies(world, tmp_path)


def test_points_are_those_of_the_command_line(world: World) -> None:
    said = world.run("points", "--vault", "./vault")["points"]
    read = reader.points(world.vault)
    assert [(one["number"], one["id"], one["item_name"]) for one in read] == [
        (one["point"], one["id"], one["item"]) for one in said
    ]
    assert {number for number, _ in world.copies} == {one["number"] for one in read}


def test_a_point_of_three_disks_needs_a_name(world: World, tmp_path: Path) -> None:
    number = next(number for number, disk in world.copies if disk == "right")
    for disk, point in ((None, number), ("middle", number), (None, 9999)):
        with pytest.raises(LookupError):
            reader.restore(world.vault, point, disk, str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()


def test_deltas_of_large_chunks(tmp_path: Path) -> None:
    world, dice = World(tmp_path), random.Random(8)
    world.create(MIB)
    world.resize("large", 0)
    world.write("large", 0, dice.randbytes(2 * MIB + 1))
    world.snapshot("large", "large")
    world.write("large", MIB - 6, b"a small edit")
    world.snapshot("large", "large")
    assert reader.DELTA in {codec for pack in packs(reader.Vault(world.vault)) for codec in pack.codecs}
    check_copies(world, tmp_path)


# --- every object, and what they hold ---


def packs(vault: reader.Vault) -> list[reader.Pack]:
    names = [name for kind, name in vault.objects() if kind == "PACK"]
    return [vault.pack(bytes.fromhex(name.split("/")[3].split(".")[0])) for name in names]


def full_slots(pack: reader.Pack) -> list[int]:
    return [slot for slot, codec in enumerate(pack.codecs) if codec != reader.DELTA]


def segments(vault: reader.Vault, layer: reader.Layer) -> list[tuple[int, reader.Segment]]:
    return [(one.cell, vault.segment(layer, one)) for one in layer.entries if one.kind == reader.SEGMENT]


def layers_of(vault: reader.Vault, item: str) -> list[list[reader.Layer]]:
    """The stacks of an item's points, oldest point first."""
    return [vault.layers(disk) for point in vault.points() if point["item_name"] == item for disk in point["disks"]]


def runs_of(vault: reader.Vault, layer: reader.Layer) -> list[reader.Run]:
    return [run for _, segment in segments(vault, layer) for run in segment.runs]


def test_every_record_and_every_block_reads(world: World) -> None:
    vault = reader.Vault(world.vault)
    kinds = {kind for kind, _ in vault.objects()}
    assert kinds == reader.LAYOUT.keys() - {"MARK"}
    for kind, name in vault.objects():
        if kind in reader.RECORDS:
            vault.record(name, kind)
    for pack in packs(vault):
        for slot in range(len(pack.ids)):
            vault.block(pack, slot)


def test_every_parent_is_named_by_its_digest(world: World) -> None:
    vault = reader.Vault(world.vault)
    parents = [point["parent"] for point in vault.points() if point["parent"]]
    assert parents
    for one in parents:
        assert vault.open(f"points/{one['origin']}/{one['number']:010}", "PONT").digest.hex() == one["digest"]


def test_the_index_names_the_full_blocks_and_no_others(world: World) -> None:
    vault = reader.Vault(world.vault)
    named = [entry for kind, name in vault.objects() if kind == "INDX" for entry in vault.index(name)]
    full = [
        (pack.ids[slot][:8], name, slot)
        for pack in packs(vault)
        for name in [bytes.fromhex(pack.sealed.name.split("/")[3].split(".")[0])]
        for slot in full_slots(pack)
    ]
    assert sorted(named) == sorted(full)


def live_bases(
    vault: reader.Vault, segment: reader.Segment, cell: int, chunk_size: int
) -> Iterator[tuple[int, bytes, int]]:
    """What a segment's bases must be, from the tables of its packs; every run is checked, also the shadowed ones."""
    before = 0
    for run in segment.runs:
        pack = vault.check_run(run, cell, chunk_size)
        live = [is_live for _, length, is_live in run.pieces for _ in range(length)]
        for at, slot in enumerate(range(run.first_slot, run.first_slot + run.count)):
            here, place = pack, slot
            while live[at] and here.codecs[place] == reader.DELTA:
                name, below = here.names[here.base_packs[place]], here.base_slots[place]
                yield before + at, name, below
                here, place = vault.pack(name), below
        before += run.count


def test_layers_count_their_pieces_check_all_runs_and_list_their_bases(world: World) -> None:
    vault = reader.Vault(world.vault)
    for point in vault.points():
        for disk in point["disks"]:
            for one, layer in zip(disk["layers"], vault.layers(disk), strict=True):
                assert one["pieces"] == sum(entry.pieces for entry in layer.entries)
                for cell, segment in segments(vault, layer):
                    assert segment.bases == list(live_bases(vault, segment, cell, disk["chunk_size"]))


def test_the_vault_holds_what_the_format_can_say(world: World) -> None:
    vault = reader.Vault(world.vault)
    assert {codec for pack in packs(vault) for codec in pack.codecs} == {reader.RAW, reader.ZSTD, reader.DELTA}
    stacks = [stack for item in ("big", "again", "three", "wide") for stack in layers_of(vault, item)]
    assert {min(len(stack), 2) for stack in stacks} == {0, 1, 2}
    layers = [layer for stack in stacks for layer in stack]
    fills = {kind for layer in layers for _, segment in segments(vault, layer) for _, _, kind in segment.fills}
    assert fills == {reader.HOLE, reader.ZERO}
    assert any(one.span > 1 and one.kind == reader.HOLE for layer in layers for one in layer.entries)
    runs = [run for layer in layers for run in runs_of(vault, layer)]
    assert max(run.count for run in runs) == 1024
    assert any(not live for run in runs for _, _, live in run.pieces), "shadowed pieces"


def test_merges_copy_whole_runs(world: World) -> None:
    stacks = layers_of(reader.Vault(world.vault), "big")
    vault = reader.Vault(world.vault)
    first = {run.digest: run for run in runs_of(vault, stacks[0][0])}
    names = {layer.sealed.name for layer in stacks[0]}
    merged = [layer for stack in stacks for layer in stack if layer.sealed.name not in names]
    copied = [run for layer in merged for run in runs_of(vault, layer) if run.digest in first]
    assert any(run.pieces != first[run.digest].pieces for run in copied), "live pieces that became shadowed ones"
    for run in copied:
        old = first[run.digest]
        assert (run.pack, run.first_slot, run.chunks()) == (old.pack, old.first_slot, old.chunks())


def test_equal_chunks_of_two_items_are_stored_once(world: World) -> None:
    vault = reader.Vault(world.vault)
    theirs = {run.pack for stack in layers_of(vault, "big") for layer in stack for run in runs_of(vault, layer)}
    full = {vault.pack(name).ids[slot] for name in theirs for slot in full_slots(vault.pack(name))}
    [[layer]] = layers_of(vault, "again")
    shared = new = 0
    for run in runs_of(vault, layer):
        for block in vault.pack(run.pack).ids[run.first_slot : run.first_slot + run.count]:
            assert (run.pack in theirs) == (block in full)
            shared, new = shared + (run.pack in theirs), new + (run.pack not in theirs)
    assert shared > 30
    assert new >= 1


# --- damage ---


@contextmanager
def flipped(path: str, offset: int) -> Iterator[None]:
    """One byte of a file is another one meanwhile; a negative offset counts from the end."""
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        at = file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        right = file.read(1)[0]
        os.pwrite(file.fileno(), bytes([right ^ 0x10]), at)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), bytes([right]), at)


def delta_of(world: World) -> tuple[int, reader.Pack, int]:
    """A point of the big disk, a pack that it uses and the slot of a delta there."""
    vault = reader.Vault(world.vault)
    for point in vault.points():
        for disk in point["disks"] if point["item_name"] == "big" else []:
            places = vault.cell(vault.layers(disk), 0, disk["size"] // CHUNK)
            for run, slot in places.values():
                if vault.pack(run.pack).codecs[slot] == reader.DELTA:
                    return point["number"], vault.pack(run.pack), slot
    raise AssertionError("no delta")


Place = tuple[str, int]


def block_of_a_delta(world: World, point: int, pack: reader.Pack, slot: int) -> Place:
    return pack.sealed.path, pack.places[slot] + 9


def base_of_a_delta(world: World, point: int, pack: reader.Pack, slot: int) -> Place:
    base = reader.Vault(world.vault).pack(pack.names[pack.base_packs[slot]])
    return base.sealed.path, base.places[pack.base_slots[slot]] + 1000


def pack_at(offset: int) -> Callable[[World, int, reader.Pack, int], Place]:
    return lambda world, point, pack, slot: (pack.sealed.path, offset)


def layer_at(offset: int) -> Callable[[World, int, reader.Pack, int], Place]:
    def place(world: World, point: int, pack: reader.Pack, slot: int) -> Place:
        vault = reader.Vault(world.vault)
        [body] = vault.points(point)
        return vault.layers(body["disks"][0])[0].sealed.path, offset

    return place


def file_at(kind: str, offset: int) -> Callable[[World, int, reader.Pack, int], Place]:
    def place(world: World, point: int, pack: reader.Pack, slot: int) -> Place:
        names = [name for has, name in reader.Vault(world.vault).objects() if has == kind]
        wanted = [name for name in names if kind != "PONT" or name.endswith(f"{point:010}")]
        return os.path.join(world.vault, max(wanted)), offset

    return place


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(block_of_a_delta, id="block of a delta"),
        pytest.param(base_of_a_delta, id="block of a delta's base"),
        *[pytest.param(pack_at(at), id=f"pack at {at}") for at in (0, 20, 50, -100, -30, -20, -1)],
        *[pytest.param(layer_at(at), id=f"layer at {at}") for at in (6, 8, 10, 12, 20, 50, 70, -100, -30, -20, -10)],
        *[pytest.param(file_at("PONT", at), id=f"point at {at}") for at in (4, 30, 90, -30, -20)],
        *[pytest.param(file_at("CONF", at), id=f"config at {at}") for at in (4, 30, 90, -30, -20)],
    ],
)
def test_a_flipped_byte_is_refused(
    world: World, tmp_path: Path, where: Callable[[World, int, reader.Pack, int], Place]
) -> None:
    point, pack, slot = delta_of(world)
    path, offset = where(world, point, pack, slot)
    with flipped(path, offset), pytest.raises(reader.Refused):
        reader.restore(world.vault, point, None, str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("name", ["vault.json", "PONT", "CONF", "INDX"])
def test_a_flip_of_any_byte_of_a_small_object_is_refused(world: World, name: str) -> None:
    vault = reader.Vault(world.vault)
    full = name if name == "vault.json" else max(one for kind, one in vault.objects() if kind == name)
    path = os.path.join(world.vault, full)
    for offset in range(min(2000, os.path.getsize(path))):
        with flipped(path, offset), pytest.raises(reader.Refused):
            reader.Vault(world.vault) if name == "vault.json" else vault.open(full, name)


@pytest.fixture
def copied(world: World, tmp_path: Path) -> World:
    """A copy to change at will, known to no host."""
    shutil.copytree(world.vault, tmp_path / "vault")
    return World(tmp_path)


@pytest.mark.parametrize("kind", ["PONT", "LAYR", "PACK", "INDX", "ITEM", "PLCY"])
def test_an_object_under_anothers_name_is_refused(copied: World, kind: str) -> None:
    vault = reader.Vault(copied.vault)
    one, other, *_ = sorted(name for has, name in vault.objects() if has == kind)
    vault.open(one, kind)
    os.replace(os.path.join(copied.vault, other), os.path.join(copied.vault, one))
    with pytest.raises(reader.Refused):
        vault.open(one, kind)


def test_a_generation_that_is_not_whole_is_passed_over(copied: World, tmp_path: Path) -> None:
    for pack in packs(reader.Vault(copied.vault)):
        shutil.copyfile(pack.sealed.path, pack.sealed.path.replace(".0-", ".1-"))
    reader.restore(copied.vault, 1, None, str(tmp_path / "restored"))
    assert os.path.getsize(tmp_path / "restored") == BIG


# --- forgery: objects whose tags are right, sealed as section 5 says ---


class Forge:
    """Writes one object in place of another one."""

    def __init__(self, vault: reader.Vault, name: str, kind: str) -> None:
        head, full = reader.HEAD.pack(b"BVLT", kind.encode(), 1, 0, 0, 0, os.urandom(32), bytes(16)), name.encode()
        key = reader.hkdf(vault.master, vault.id, b"blockvault/1 data 0")
        key = reader.hkdf(key, head[16:48], b"blockvault/1 " + head[:8])
        associated = b"blockvault/1\0" + vault.id + head + struct.pack("<H", len(full)) + full
        self.path = Path(vault.folder, name)
        self.sealed = reader.Sealed(str(self.path), name, associated, key, b"", 0, b"")
        self.stored = head

    def add(self, number: int, plain: bytes) -> bytes:
        frame = zstandard.ZstdCompressor().compress(plain)
        tag = self.sealed.tag(number, frame)
        self.stored += frame + tag
        return tag

    def end(self, directory: bytes) -> bytes:
        at = len(self.stored)
        tag = self.add(reader.DIRECTORY, directory)
        self.stored += reader.FOOTER.pack(at, len(self.stored) - at, b"BVLTTAIL")
        self.path.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(self.stored)
        return tag


def forge_first_layer(folder: str, column: str, change: int) -> None:
    """Change the first number of a column of the big disk's first layer; the point lists the new digest."""
    vault = reader.Vault(folder)
    [body] = vault.points(1)
    [disk] = body["disks"]
    [layer] = vault.layers(disk)
    [entry] = layer.entries
    frame = layer.sealed.read(entry.offset, entry.length)[:-16]
    plain = bytearray(reader.unzstd(frame, reader.SEGMENT_MAX, "segment"))
    names, runs, pieces, fills, _ = reader.SEGMENT_HEAD.unpack_from(plain)
    columns = {"run first slot": 20 + 16 * names + 4 * runs}
    columns["fill length"] = 20 + 16 * names + 32 * runs + 9 * pieces + 4 * fills
    [number] = struct.unpack_from("<I", plain, columns[column])
    struct.pack_into("<I", plain, columns[column], number + change)
    forge = Forge(vault, layer.sealed.name, "LAYR")
    tag = forge.add(entry.cell, bytes(plain))
    told = reader.ENTRY.pack(entry.cell, 1, reader.SEGMENT, 64, len(forge.stored) - 64, entry.pieces, tag)
    root = reader.ROOT.pack(CHUNK, reader.CELL_CHUNKS, -(-BIG // CHUNK), 1) + told
    disk["layers"][0]["tag"] = forge.end(root).hex()
    Forge(vault, f"points/{body['origin']}/{1:010}", "PONT").end(json.dumps(body).encode())


def test_what_is_sealed_by_the_document_is_read_by_the_program(world: World, copied: World, tmp_path: Path) -> None:
    forge_first_layer(copied.vault, "run first slot", 0)
    copied.run("restore", "--point", "1", "--vault", "./vault", "-o", "restored")
    reader.restore(copied.vault, 1, None, str(tmp_path / "also"))
    assert same(tmp_path / "restored", world.copies[1, "big"])
    assert same(tmp_path / "also", world.copies[1, "big"])


@pytest.mark.parametrize(
    ("column", "change", "why"),
    [("run first slot", 1, "a run of cell 0 is wrong"), ("fill length", -1, "stated by no layer")],
)
def test_a_wrong_place_is_refused_though_every_tag_is_right(
    copied: World, tmp_path: Path, column: str, change: int, why: str
) -> None:
    forge_first_layer(copied.vault, column, change)
    with pytest.raises(reader.Refused, match=why):
        reader.restore(copied.vault, 1, None, str(tmp_path / "never"))


def test_a_void_point_does_not_count_for_anyone(copied: World, tmp_path: Path) -> None:
    vault = reader.Vault(copied.vault)
    numbers = [point["number"] for point in vault.points()]
    origin = vault.points(1)[0]["origin"]
    for sequence, kind in enumerate(("of another time", "void"), 1):
        mark = {"kind": kind, "at": "2026-11-20T02:00:00.000000Z", "reason": "a test"}
        Forge(vault, f"marks/{origin}/{1:010}/{sequence:06}", "MARK").end(json.dumps(mark).encode())
        left = [point["number"] for point in reader.points(copied.vault)]
        assert left == (numbers if kind != "void" else numbers[1:])
    said = copied.run("points", "--vault", "./vault")["points"]
    assert [point["point"] for point in said] == numbers[1:]
    with pytest.raises(LookupError):
        reader.restore(copied.vault, 1, None, str(tmp_path / "never"))
