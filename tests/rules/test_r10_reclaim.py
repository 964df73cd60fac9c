"""R10: reclaim beside everything else: at every step of a transfer, beside restores, other prunes, and after kills.

A transfer that reclaim runs beside commits and restores byte for byte, or ends with `transfer.conflict` and the next
run works. What is freed is everything that no root needs, in the end: `nothing_is_left` asks the oracle.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import forge
from helpers.children import ForkServer, environment
from helpers.damage import flip
from helpers.files import noise, text, write_at
from helpers.needed import NOW, filled, needed_by, nothing_is_left, purge, reclaim, roots
from helpers.site import CHUNK, KEY_FILE, Site
from helpers.stored import check_clean, survey

from blockvault.engine.reclaim import Reclaimer
from blockvault.errors import BlockVaultError, ConflictError, DeviceError, NotFoundError
from blockvault.failpoints import Hook
from blockvault.ids import PackName
from blockvault.model import Codec
from blockvault.monitor import Monitor
from blockvault.store import condemned
from blockvault.store.generations import write_generation

SetHook = Callable[[Hook | None], None]
CHUNKS = 24
DEAD, KNOWN, EDITED, FRESH, FLAT = 2, 5, 9, 13, 17  # chunks that the next transfer changes

PRUNE = """
def work(state):
    from datetime import datetime, UTC
    from blockvault.engine.reclaim import Reclaimer
    from blockvault.monitor import Monitor
    with vault.Vault.open(state_dir=state) as opened:
        done = Reclaimer(opened._session, Monitor()).run(datetime.now(UTC), max_dead=0.0)
        return [done.freed_bytes, done.waiting_objects, sorted(done.waiting_for)]
from blockvault import vault
"""


class Scene:
    """An item with history and an unrelated one; `arrange` makes something dead, and the next churn touches it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.image, self.other = site.root / "disk.img", site.root / "other.img"
        self.image.write_bytes(text(CHUNKS * CHUNK, 1))
        self.other.write_bytes(noise(4 * CHUNK, 2))
        self.turn = 0
        site.take(self.image)
        site.take(self.other)
        self.lost = b""

    def arrange(self) -> None:
        """A point that comes and goes leaves dead slots beside live ones; the image then holds one of its chunks."""
        self.turn += 1
        self.lost = noise(CHUNK, 7_000_000 + self.turn)
        write_at(self.image, 20 * CHUNK, self.lost + noise(CHUNK, 8_000_000 + self.turn))
        middle = self.site.take(self.image).number
        write_at(self.image, 20 * CHUNK, noise(CHUNK, 9_000_000 + self.turn))  # one of its two blocks lives on
        self.site.take(self.image)
        purge(self.site, middle)
        write_at(self.image, DEAD * CHUNK, self.lost)  # dedup onto what is dead
        write_at(self.image, KNOWN * CHUNK, self.other.read_bytes()[CHUNK : 2 * CHUNK])
        write_at(self.image, EDITED * CHUNK + 50, b"edit %d" % self.turn)
        write_at(self.image, FRESH * CHUNK, noise(CHUNK, self.turn))
        write_at(self.image, FLAT * CHUNK, bytes(CHUNK) if self.turn % 2 else text(CHUNK, self.turn))

    def visits(self, hook: SetHook) -> list[tuple[str, int]]:
        """Every failpoint that a transfer of such churn reaches, with the number of the visit."""
        count: dict[str, int] = {}

        def note(name: str) -> None:
            count[name] = count.get(name, 0) + 1

        self.arrange()
        hook(note)
        result = self.site.vault.snapshot([str(self.image)], keep=False)
        hook(None)
        self.site.remember(str(result.number))
        return [(name, visit) for name, times in count.items() for visit in range(1, times + 1)]

    def take_with(self, hook: SetHook, place: tuple[str, int], act: Callable[[], object]) -> BlockVaultError | None:
        """Take a point, and have `act` run at that visit of a failpoint; what ended the job, if something did."""
        name, visit = place
        seen = 0
        lock = threading.Lock()
        ran: list[bool] = []

        def interleave(reached: str) -> None:
            nonlocal seen
            if reached != name or ran:
                return
            with lock:
                seen += 1
                if seen != visit:
                    return
                ran.append(True)
            act()

        hook(interleave)
        try:
            result = self.site.vault.snapshot([str(self.image)], keep=False)
        except BlockVaultError as error:
            return error
        finally:
            hook(None)
        self.site.remember(str(result.number))
        return None


def settle(scene: Scene, error: BlockVaultError | None, where: str) -> None:
    """The transfer made a point that restores, or a conflict that the next run is not in."""
    if error is not None:
        assert error.kind == "transfer.conflict", f"{where}: {error}"
        scene.site.take(scene.image)
    scene.site.check(max(scene.site.copies, key=int))


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_beside_a_transfer_at_every_step(make_site: Callable[..., Site], hook: SetHook, encrypted: bool) -> None:
    site = make_site(secret=KEY_FILE if encrypted else None)
    scene = Scene(site)
    places = scene.visits(hook)
    assert len(places) > 20
    conflicts = 0
    for place in places if not encrypted else places[::3]:
        scene.arrange()
        error = scene.take_with(hook, place, lambda: reclaim(site, 0.0))
        settle(scene, error, f"at visit {place[1]} of {place[0]}")
        conflicts += error is not None
        if scene.turn % 6 == 0:
            reclaim(site, 0.0)
            nothing_is_left(site)
            purge(site, *sorted(site.copies, key=int)[2:-2])
    # A transfer that has met a dead block and is not yet at its last look when that is condemned: no other conflicts.
    assert conflicts < len(places)
    reclaim(site, 0.0)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


@pytest.mark.slow
def test_the_parent_is_purged_and_reclaimed_at_every_step(site: Site, hook: SetHook) -> None:
    scene = Scene(site)
    places = scene.visits(hook)
    committed = 0
    for place in places:
        scene.arrange()
        parent = max((label for label in site.copies if label != "2"), key=int)

        def end_it(parent: str = parent) -> None:
            purge(site, parent)
            reclaim(site, 0.0)

        error = scene.take_with(hook, place, end_it)
        committed += error is None
        settle(scene, error, f"at visit {place[1]} of {place[0]}")
    assert 0 < committed < len(places)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_a_parent_that_ends_before_the_lease_is_found_at_once(site: Site, hook: SetHook) -> None:
    """Not after the whole transfer, at R8: its layers may be gone, and all would be read and stored for nothing."""
    scene = Scene(site)
    scene.arrange()
    parent = max((label for label in site.copies if label != "2"), key=int)

    def end_it() -> None:
        purge(site, parent)
        reclaim(site, 0.0)

    monitor = Monitor()
    hook(lambda name: (hook(None), end_it()) if name == "lease.sync" else None)  # type: ignore[func-returns-value]
    with pytest.raises(ConflictError) as caught:
        site.vault.snapshot([str(scene.image)], keep=False, monitor=monitor)
    hook(None)
    assert caught.value.kind == "transfer.conflict"
    assert monitor.counters["read_bytes"] == 0
    site.take(scene.image)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_another_process_reclaims_at_every_step(site: Site, hook: SetHook) -> None:
    """With an LMDB, a shelf and a catalog of its own: nothing that this process remembers is told to it, or by it."""
    scene = Scene(site)
    with ForkServer() as children:
        for name in ("transfer.packs", "transfer.layers", "transfer.commit", "transfer.committed", "transfer.indexed"):
            scene.arrange()

            def other() -> None:
                answer = children.run(PRUNE, site.state)
                assert answer["status"] == 0
                assert answer["error"] is None

            error = scene.take_with(hook, (name, 1), other)
            settle(scene, error, f"at {name}")
        assert children.run(PRUNE, site.state)["error"] is None
    nothing_is_left(site)
    site.sound()


def test_what_another_process_deleted_is_not_met_again_from_memory(site: Site) -> None:
    """An opened vault remembers tables; after another process freed a pack the next transfer must not refer to it."""
    scene = Scene(site)
    scene.arrange()
    lost = scene.lost
    write_at(scene.image, DEAD * CHUNK, text(CHUNK, 77))
    site.take(scene.image)  # tables are read
    for pack in forge.packs(site):
        forge.session(site).shelf.reader(pack)
    with ForkServer() as children:
        assert children.run(PRUNE, site.state)["error"] is None
    # A stale entry of the index, as one that is rebuilt from old segments has it.
    write_at(scene.image, DEAD * CHUNK, lost)
    site.take(scene.image)
    site.sound()


def test_slots_that_were_emptied_are_not_met_again_from_memory(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a pack that was written again: its old table says that a slot is full, and the index still too."""
    from blockvault.store.index import Index

    scene = Scene(site)
    scene.arrange()
    lost = scene.lost
    write_at(scene.image, DEAD * CHUNK, text(CHUNK, 77))
    site.take(scene.image)
    for pack in forge.packs(site):
        forge.session(site).shelf.reader(pack)
    session = forge.session(site)
    places = session.index.find_blocks(session.shelf.reader(forge.packs(site)[0]).table.ids[:1])
    assert places[0] is not None
    with ForkServer() as children:
        assert children.run(PRUNE, site.state)["error"] is None
    (gone,) = find_id(scene, lost)
    holder = next(pack for pack in forge.packs(site) if (forge.table(site, pack).ids == gone).all(axis=1).any())
    slot = int(np.flatnonzero((forge.table(site, holder).ids == gone).all(axis=1))[0])
    assert forge.table(site, holder).codecs[slot] == Codec.EMPTY
    real = Index.find_blocks

    def stale(self: Index, ids: np.ndarray) -> list[tuple[PackName, int] | None]:
        found = real(self, ids)
        return [(holder, slot) if (row == gone).all() else place for row, place in zip(ids, found, strict=True)]

    monkeypatch.setattr(Index, "find_blocks", stale)
    write_at(scene.image, DEAD * CHUNK, lost)
    site.take(scene.image)
    site.sound()


def find_id(scene: Scene, data: bytes) -> list[np.ndarray]:
    import blake3

    keys = forge.session(scene.site).keys
    return [np.frombuffer(blake3.blake3(data, key=keys.id_key).digest(), dtype=np.uint8)]


# --- dedup and bases beside condemning ------------------------------


def test_dedup_onto_a_dead_block_while_it_is_condemned(site: Site, hook: SetHook) -> None:
    """The transfer has met the block; then it is condemned: the marker makes it a conflict, or the lease keeps it."""
    scene = Scene(site)
    scene.arrange()
    waited: list[int] = []
    error = scene.take_with(hook, ("transfer.packs", 1), lambda: waited.append(reclaim(site, 0.0).waiting_objects))
    assert waited[0] > 0, "a transfer is at work: what is condemned waits for it"
    assert error is not None
    assert error.kind == "transfer.conflict"
    assert "condemned" in (error.why or "")
    taken = site.take(scene.image)  # sees the marker: the block is stored again
    site.check(taken.number)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_dedup_onto_a_dead_block_just_before_it_is_condemned(site: Site, hook: SetHook) -> None:
    """The last look is over when the block is condemned: the point commits, and the second marking finds it."""
    scene = Scene(site)
    scene.arrange()
    error = scene.take_with(hook, ("transfer.commit", 1), lambda: reclaim(site, 0.0))
    assert error is None
    assert site.objects("main/condemned") != []
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_a_transfer_beside_a_marker_of_what_its_parent_needs(site: Site, hook: SetHook) -> None:
    """A reader keeps a round open for long. What was condemned and is needed again is no base, and no conflict."""
    scene = Scene(site)
    scene.arrange()
    point = roots(site)[0]
    with forge.session(site).reading([point]):
        assert scene.take_with(hook, ("transfer.commit", 1), lambda: reclaim(site, 0.0)) is None
        assert site.objects("main/condemned") != []
        for turn in range(3):
            write_at(scene.image, DEAD * CHUNK + 900, b"a delta of what was condemned %d" % turn)
            site.take(scene.image)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_what_a_running_transfer_made_is_not_condemned(site: Site, hook: SetHook) -> None:
    """Its packs and layers are needed by nothing yet; condemned they would be a conflict for nothing."""
    scene = Scene(site)
    write_at(scene.image, 0, noise(6 * CHUNK, 3))
    for place in (("transfer.packs", 1), ("transfer.layers", 1)):
        write_at(scene.image, 0, noise(6 * CHUNK, hash(place) % 1000))
        assert scene.take_with(hook, place, lambda: reclaim(site, 0.0)) is None
        assert site.objects("main/condemned") == []
    site.sound()


def test_a_shared_pack_of_a_running_transfer_is_not_cut_down(
    site: Site, hook: SetHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long transfer tells of its packs before its commit. Another item refers to one slot, and commits first."""
    from blockvault.engine import packing

    scene = Scene(site)
    data = noise(8 * CHUNK, 3)
    write_at(scene.image, 0, data)
    monkeypatch.setattr(packing, "PENDING_BLOCKS_MAX", 0)
    monkeypatch.setattr(packing, "PACK_SLOTS", 4)

    def meanwhile() -> None:
        monkeypatch.setattr(packing, "PENDING_BLOCKS_MAX", 65_536)
        write_at(scene.other, 2 * CHUNK, data[CHUNK : 2 * CHUNK])
        hook(None)
        site.take(scene.other)
        reclaim(site, 0.0)

    error = scene.take_with(hook, ("transfer.layers", 1), meanwhile)
    assert error is None
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


# --- beside readers ------------------------------


def test_a_restore_whose_point_is_purged_and_pruned(site: Site, hook: SetHook) -> None:
    """Its lease names the point: everything it needs stays until it has ended, and is freed then."""
    scene = Scene(site)
    scene.arrange()
    site.take(scene.image)
    victim = max(site.copies, key=int)
    copy = site.copies[victim]["disk"].read_bytes()
    kept = {key: value for key, value in site.copies.items() if key != victim}

    def end_it(name: str) -> None:
        if name == "restore.write":
            hook(None)
            site.vault.delete_point(victim, purge=True)
            reclaim(site, 0.0)
            reclaim(site, 0.0)

    hook(end_it)
    target = site.restore(victim)
    hook(None)
    assert target.read_bytes() == copy
    site.copies = kept
    with pytest.raises(NotFoundError):
        site.restore(victim)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


@pytest.mark.parametrize("verb", ["verify", "diff"])
def test_a_reader_whose_points_are_purged_and_pruned(site: Site, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Between its lease and its work the points end and everything dead is freed; it goes on as if nothing were."""
    from blockvault.store.layers import LayerReader

    scene = Scene(site)
    write_at(scene.image, 0, noise(2 * CHUNK, 5))
    number = site.take(scene.image).number
    real = LayerReader.read_segment
    done: list[bool] = []

    def read_segment(self: LayerReader, entry: object) -> object:
        if not done:
            done.append(True)
            purge(site, number)
            reclaim(site, 0.0)
        return real(self, entry)

    monkeypatch.setattr(LayerReader, "read_segment", read_segment)
    if verb == "verify":
        assert site.vault.verify().damage == ()
    else:
        result = site.vault.diff("1", str(number))
        assert {extent.offset for extent in result.extents} == {0}
    assert done
    monkeypatch.setattr(LayerReader, "read_segment", real)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


HOLDER = """
import sys
from blockvault.vault import Vault
with Vault.open(state_dir=sys.argv[1]) as vault:
    session = vault._session
    point = vault.point(sys.argv[3]).point
    with session.lease(sys.argv[2], "disk", [(point.ref, point.digest)]):
        print("held", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("operation", ["transfer", "read"])
@pytest.mark.parametrize("ending", ["normally", "killed"])
def test_what_a_living_process_may_use_waits_for_it(site: Site, operation: str, ending: str) -> None:
    """A lease of another process: its point stays whole, other dead objects wait; after it has ended all is freed."""
    scene = Scene(site)
    write_at(scene.image, 0, noise(2 * CHUNK, 5))
    leased = site.take(scene.image).number
    write_at(scene.image, 0, noise(2 * CHUNK, 6))
    site.take(scene.image)
    command = [sys.executable, "-c", HOLDER, str(site.state), operation, str(leased)]
    holder = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        needed = needed_by(site, roots(site))
        dead = site.take(scene.other, full=True).number
        purge(site, leased, dead, 2)
        for _ in range(2):
            result = reclaim(site, 0.0)
            there = filled(site)
            assert all(slots <= there[pack] for pack, slots in needed.items() if pack in there)
        assert result.freed_bytes == 0
        assert result.waiting_objects > 0
        assert result.waiting_for == {operation}
    finally:
        if ending == "killed":
            holder.kill()
        holder.communicate("\n" if ending == "normally" else None)
    result = reclaim(site, 0.0)
    assert result.waiting_objects == 0
    assert result.freed_bytes > 0
    nothing_is_left(site)
    site.sound()


def test_a_record_stays_while_a_reader_names_its_point(site: Site, hook: SetHook) -> None:
    """A restore that began after reclaim had looked at the leases: its point's record is not dropped under it."""
    scene = Scene(site)
    record = site.folder / f"points/{site.vault.origin}/{1:010d}"
    point = roots(site)[0]
    purge(site, 1)
    held = []

    def begin(name: str) -> None:
        if name == "reclaim.marked":
            hook(None)
            lease = forge.session(site).lease("read", "disk", [(point.ref, point.digest)])
            lease.__enter__()
            held.append(lease)

    hook(begin)
    reclaim(site, 0.0)
    assert record.exists()
    reclaim(site, 0.0)  # no error: what the lease names is still known
    held[0].__exit__(None, None, None)
    reclaim(site, 0.0)
    assert not record.exists()
    write_at(scene.image, 0, b"on")
    site.take(scene.image)
    site.sound()


# --- markers and rounds ------------------------------


def waiting_scene(site: Site) -> Iterator[None]:
    """Something is condemned and waits for a lease, for as long as the generator is open."""
    scene = Scene(site)
    scene.arrange()
    purge(site, 2)
    with forge.session(site).reading([roots(site)[-1]]):
        assert reclaim(site, 0.0).waiting_objects > 0
        yield
    del scene


def markers(site: Site) -> list[Path]:
    return [path for path in site.objects("main/condemned") if not path.name.endswith(".round")]


def rounds(site: Site) -> list[Path]:
    return [path for path in site.objects("main/condemned") if path.name.endswith(".round")]


@pytest.mark.parametrize("change", ["flipped", "deleted", "swapped"])
def test_markers_that_were_damaged(site: Site, change: str) -> None:
    """One that cannot be read is lifted, its object condemned again later; a writer refers to nothing under it."""
    waits = waiting_scene(site)
    next(waits)
    for path in markers(site):
        if change == "flipped":
            flip(path, 80)
        elif change == "deleted":
            path.unlink()
        else:
            other = markers(site)[0]
            data = other.read_bytes()
            path.chmod(0o600)
            path.write_bytes(data)
    session = forge.session(site)
    if change == "flipped":
        looked = condemned.look(session.store, session.keys)
        assert looked.whole == {path.name.split(".")[0] for path in markers(site)}
    assert reclaim(site, 0.0).freed_bytes == 0
    next(waits, None)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.check_all()


@pytest.mark.parametrize("change", ["flipped", "deleted", "empty"])
def test_round_records_that_were_damaged(site: Site, change: str) -> None:
    """Whom the round waited for is not known: it waits for all who are at work now."""
    waits = waiting_scene(site)
    next(waits)
    (record,) = rounds(site)
    if change == "flipped":
        flip(record, 80)
    elif change == "deleted":
        record.unlink()
    else:
        record.chmod(0o600)
        record.write_bytes(b"")
    result = reclaim(site, 0.0)
    assert result.freed_bytes == 0
    assert result.waiting_objects > 0
    session = forge.session(site)
    assert condemned.read_round(session.store, session.keys, rounds(site)[0].name.split(".")[0])
    next(waits, None)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.check_all()


def test_a_round_waits_for_those_of_its_time_only(site: Site) -> None:
    """Who began after the markers were made has seen them: it is not waited for."""
    waits = waiting_scene(site)
    next(waits)
    point = roots(site)[-1]
    with forge.session(site).lease("transfer", "disk", [(point.ref, point.digest)]):
        next(waits, None)  # the reader that was waited for has ended
        result = reclaim(site, 0.0)
        assert result.freed_bytes > 0
        assert result.waiting_objects == 0
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.check_all()


def test_markers_of_what_was_never_there(site: Site) -> None:
    session = forge.session(site)
    scene = Scene(site)
    for key, name in (("ab" * 16, "main/layers/" + "ab" * 16), ("cd" * 16, "main/packs/cd/" + "cd" * 16)):
        condemned.condemn(session.store, session.keys, key=key, name=name, slots=None, in_round="ef" * 16, now=NOW)
    in_use = forge.packs(site)[0]
    for slots in (None, np.array([0, 1, 5], dtype=np.int64)):
        condemned.condemn(
            session.store, session.keys, key=in_use.hex(), name=f"main/packs/{in_use.hex()[-2:]}/{in_use.hex()}",
            slots=slots, in_round=os.urandom(16).hex(), now=NOW,
        )  # fmt: skip
    reclaim(site, 0.0)
    assert markers(site) == []
    nothing_is_left(site)
    write_at(scene.image, 0, b"on")
    site.take(scene.image)
    site.sound()


def test_a_marker_of_more_slots_than_a_pack_can_have(site: Site) -> None:
    """Forged: it is refused before memory is given to it."""
    from blockvault.format import records
    from blockvault.format.envelope import Kind, seal_record

    session = forge.session(site)
    Scene(site)
    name = f"{condemned.CONDEMNED_FOLDER}/{'ab' * 16}.{'cd' * 16}"
    body = records.CondemnedBody(object="main/packs/ab/" + "ab" * 16, at="2026-11-28T00:00:00Z", slots=[(0, 2**61)])
    data, _ = seal_record(session.keys, Kind.CONDEMNED, name, records.encode(body))
    session.store.put_new(name, data)
    (marker,) = condemned.markers(session.store, session.keys)
    assert not marker.readable
    reclaim(site, 0.0)
    assert markers(site) == []


# --- packs ------------------------------


def cut_scene(site: Site) -> tuple[Scene, PackName, int, int]:
    """A pack with a needed and a dead slot."""
    scene = Scene(site)
    scene.arrange()
    needed = needed_by(site, roots(site))
    for pack, slots in filled(site).items():
        dead = slots - needed.get(pack, set())
        alive = needed.get(pack, set())
        if dead and alive:
            return scene, pack, min(alive), min(dead)
    raise AssertionError("no such pack")


def damage_slot(site: Site, pack: PackName, slot: int) -> None:
    table = forge.table(site, pack)
    flip(forge.pack_path(site, pack), int(table.offsets[slot]) + 20)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_pack_damaged_in_a_needed_slot_is_left_alone_and_named(
    make_site: Callable[..., Site], encrypted: bool
) -> None:
    site = make_site(secret=KEY_FILE if encrypted else None)
    _, pack, alive, _ = cut_scene(site)
    damage_slot(site, pack, alive)
    path = forge.pack_path(site, pack)
    before = path.read_bytes()
    monitor = Monitor()
    Reclaimer(forge.session(site), monitor).run(NOW, max_dead=0.0)
    assert path.read_bytes() == before
    assert forge.pack_path(site, pack) == path, "no other generation"
    assert any(pack.hex() in warning.message for warning in monitor.warnings)
    assert [damage.object for damage in site.vault.verify().damage if pack.hex() in damage.object]
    good = [label for label in site.copies if site.outcome(label) is None]
    assert good


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_pack_damaged_in_a_dead_slot_loses_no_other(make_site: Callable[..., Site], encrypted: bool) -> None:
    site = make_site(secret=KEY_FILE if encrypted else None)
    _, pack, _, dead = cut_scene(site)
    damage_slot(site, pack, dead)
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_a_pack_whose_table_is_damaged_is_left_alone(site: Site) -> None:
    _, pack, _, _ = cut_scene(site)
    path = forge.pack_path(site, pack)
    flip(path, path.stat().st_size - 40)
    reclaim(site, 0.0)
    assert path.exists()


def test_a_dead_pack_whose_table_is_damaged_is_deleted(site: Site) -> None:
    scene = Scene(site)
    path = forge.pack_path(site, forge.packs(site)[1])
    purge(site, 2)
    flip(path, path.stat().st_size - 40)
    reclaim(site, 0.0)
    assert not path.exists()
    nothing_is_left(site)
    write_at(scene.other, 0, b"again")
    site.take(scene.other)
    site.sound()


def test_an_older_generation_that_a_kill_left_is_deleted(site: Site) -> None:
    scene, pack, _, dead = cut_scene(site)
    session = forge.session(site)
    reader = session.shelf.newest_reader(pack)
    keep = np.ones(reader.table.slot_count, dtype=np.bool_)
    keep[dead] = False
    write_generation(session.store, session.keys, reader, keep=keep)
    assert len(session.shelf.names(pack, refresh=True)) == 2
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()
    del scene


@pytest.mark.parametrize("what", ["a needed slot is damaged", "a needed slot is missing", "the table is damaged"])
def test_an_older_generation_stays_where_the_newest_is_not_whole(site: Site, what: str) -> None:
    _, pack, alive, dead = cut_scene(site)
    session = forge.session(site)
    reader = session.shelf.newest_reader(pack)
    old = site.folder / reader.name
    keep = np.ones(reader.table.slot_count, dtype=np.bool_)
    keep[dead] = False
    if what == "a needed slot is missing":
        keep[alive] = False
    fresh = write_generation(session.store, session.keys, reader, keep=keep)
    if what == "a needed slot is damaged":
        damage_slot(site, pack, alive)
    elif what == "the table is damaged":
        flip(site.folder / fresh, (site.folder / fresh).stat().st_size - 40)
    reclaim(site, 1.0)  # nothing is rewritten
    assert old.exists(), "it is the only one that has every needed slot"


# --- two at once, the index, the snapshot tier, faults ------------------------------


def test_two_prunes_at_once(site: Site, hook: SetHook) -> None:
    """The second is refused while the first works, and finds nothing left afterwards."""
    scene = Scene(site)
    scene.arrange()
    refused: list[str | None] = []
    with ForkServer() as children:

        def other(name: str) -> None:
            if name in ("reclaim.planned", "reclaim.condemned", "reclaim.waited", "generation.written"):
                refused.append(children.run(PRUNE, site.state)["error"])

        hook(other)
        reclaim(site, 0.0)
        hook(None)
        assert refused
        assert set(refused) == {"vault.locked"}
        assert children.run(PRUNE, site.state)["answer"][0] == 0
    nothing_is_left(site)
    site.sound()


def test_while_the_snapshot_tier_captures(make_site: Callable[..., Site], hook: SetHook) -> None:
    """Captures and transfers with snapshots kept: reclaim between any two steps of them."""
    site = make_site(keep=True)
    image = site.root / "disk.img"
    image.write_bytes(text(CHUNKS * CHUNK, 1))
    site.take(image)
    busy = threading.local()
    turns = 0

    def interleave(name: str) -> None:
        nonlocal turns
        if name.startswith("snapshot.") and not getattr(busy, "now", False):
            busy.now = True
            turns += 1
            reclaim(site, 0.0)
            busy.now = False

    for number in range(3):
        write_at(image, number * CHUNK, noise(2 * CHUNK, number))
        hook(interleave)
        result = site.vault.snapshot([str(image)])
        hook(None)
        site.remember(str(result.number))
        purge(site, min(site.copies, key=int))
    assert turns > 3
    for label in site.copies:
        site.check(label, source="snapshot")
    site.sound()


def test_the_index_names_nothing_that_is_gone(site: Site) -> None:
    scene = Scene(site)
    scene.arrange()
    purge(site, 2)
    reclaim(site, 0.0)
    session = forge.session(site)
    for pack in forge.packs(site):
        table = forge.table(site, pack)
        for slot, place in enumerate(session.index.find_blocks(table.ids)):
            if table.codecs[slot] in (Codec.EMPTY, Codec.DELTA):
                assert place != (pack, slot)
    site.take(scene.image)
    site.sound()


def test_an_index_that_is_rebuilt_from_stale_segments(site: Site) -> None:
    """Segments still name slots that were emptied and packs that are gone: hints, which are checked (R2)."""
    scene = Scene(site)
    scene.arrange()
    lost, gone = scene.lost, scene.other.read_bytes()
    write_at(scene.image, DEAD * CHUNK, text(CHUNK, 5))
    site.take(scene.image)
    segments = {path: path.read_bytes() for path in site.objects("main/index")}
    purge(site, 2)
    write_at(scene.image, KNOWN * CHUNK, text(CHUNK, 6))
    site.take(scene.image)
    purge(site, *[label for label in site.copies if label not in ("1", max(site.copies, key=int))])
    reclaim(site, 0.0)
    for path, data in segments.items():
        if not path.exists():
            path.write_bytes(data)
    site.lose_index()
    write_at(scene.image, DEAD * CHUNK, lost)
    write_at(scene.image, KNOWN * CHUNK, gone)
    site.take(scene.image)
    site.sound()
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


@pytest.mark.parametrize("step", ["reclaim.drop-record", "reclaim.delete-segment", "reclaim.unmark"])
def test_index_segments_of_gone_packs_go_with_the_next_run(site: Site, hook: SetHook, step: str) -> None:
    """A run that ends between the last pack and its index segment leaves the pack's marker for the next."""
    scene = Scene(site)
    write_at(scene.image, FRESH * CHUNK, noise(2 * CHUNK, 31))
    site.take(scene.image)
    write_at(scene.image, FRESH * CHUNK, noise(2 * CHUNK, 32))
    site.take(scene.image)
    purge(site, 3)
    assert not survey(forge.session(site)).idle_segments

    def interrupt(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        reclaim(site, 0.0)
    hook(None)
    site.reopen()
    assert survey(forge.session(site)).idle_segments or step == "reclaim.unmark"
    reclaim(site, 0.0)
    check_clean(forge.session(site), site.folder, exact=True)
    site.sound()


def test_a_segment_that_comes_while_packs_are_listed_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that commits while reclaim tidies: its segment names packs that were not listed yet."""
    scene = Scene(site)
    purge(site, 2)
    session = forge.session(site)
    real = type(session.shelf).all_packs
    calls = 0

    def listed(shelf: object) -> object:
        nonlocal calls
        calls += 1
        found = real(shelf)  # type: ignore[arg-type]
        if calls == 3:  # for the segments; the last is for the outlines
            write_at(scene.image, 0, noise(2 * CHUNK, 9))
            site.take(scene.image)
        return found

    monkeypatch.setattr(type(session.shelf), "all_packs", listed)
    reclaim(site, 0.0)
    assert calls == 4
    site.lose_index()
    write_at(scene.other, 0, scene.image.read_bytes()[:CHUNK])
    site.take(scene.other)
    assert site.counters.get("blocks_stored", 0) < 4, "the chunk is found by the segment"


@pytest.mark.parametrize("step", ["reclaim.condemned", "generation.write"])
def test_a_full_disk_frees_what_it_can(site: Site, hook: SetHook, step: str) -> None:
    """No room for another marker, or for a next generation: what was condemned before is freed all the same."""
    scene = Scene(site)
    scene.arrange()
    purge(site, 2)

    seen: list[str] = []

    def full(name: str) -> None:
        seen.append(name)
        if name == step and seen.count(step) > (step == "reclaim.condemned"):
            raise DeviceError("store.no-space", "no space left while writing to the vault")

    hook(full)
    result = reclaim(site, 0.0)
    hook(None)
    assert result.deleted_packs == 1
    reclaim(site, 0.0)
    nothing_is_left(site)
    site.sound()


def test_a_conflict_is_told_where_a_parent_is_gone(site: Site) -> None:
    """A record that somebody deleted by hand while a job builds on its point: nothing is freed until the job ends."""
    Scene(site)
    point = roots(site)[0]
    with forge.session(site).lease("transfer", "disk", [(point.ref, point.digest)]):
        purge(site, 1, 2)
        (site.folder / f"points/{point.ref.origin}/{1:010d}").unlink()
        before = site.objects("main")
        with pytest.raises(ConflictError) as caught:
            reclaim(site, 0.0)
        assert caught.value.kind == "reclaim.parent-gone"
        assert site.objects("main") == before
    reclaim(site, 0.0)
    assert site.objects("main/packs") == []


def test_nothing_is_freed_twice_or_promised_falsely(site: Site) -> None:
    """What the plan says is what is freed, in bytes of the folder."""
    scene = Scene(site)
    scene.arrange()
    purge(site, 2)
    plan = Reclaimer(forge.session(site), Monitor()).plan(0.0)

    def size() -> int:
        return sum(path.stat().st_size for top in ("packs", "layers") for path in site.objects(f"main/{top}"))

    before = size()
    result = reclaim(site, 0.0)
    freed = before - size()
    assert freed <= result.freed_bytes <= freed + 4096 * 3  # index segments besides
    assert abs(plan.freeable_bytes - freed) < 4096
    assert reclaim(site, 0.0).freed_bytes == 0
