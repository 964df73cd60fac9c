"""R7: packs, layers, point record, LMDB, digest state, each durable (file, then folder) before the next.

What a kill leaves at each step is shown in `crash/`; a kill keeps the page cache, so what a power cut would leave is
shown here by the order of the system calls.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers import forge
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import AlreadyExistsError, ConflictError
from blockvault.store.index import Index
from blockvault.store.local import LocalStore
from blockvault.vault import Vault


@dataclass(frozen=True)
class Call:
    """A system call that matters for durability: `what` was done to `path`."""

    what: str
    path: str


class Tracer:
    """Records writes, syncs, links, renames and new folders, and LMDB's transactions, in the order they end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        true = {name: getattr(os, name) for name in ("write", "fsync", "link", "rename", "mkdir", "symlink")}
        true_write = Index._write

        def path_of(fd: int) -> str:
            return os.readlink(f"/proc/self/fd/{fd}")

        def write(fd: int, data: Any) -> int:
            self.note("write", path_of(fd))
            return true["write"](fd, data)

        def fsync(fd: int) -> None:
            true["fsync"](fd)
            self.note("sync", path_of(fd))

        def link(source: str, target: str, *, dst_dir_fd: int | None = None, **options: Any) -> None:
            name = os.readlink(source) if source.startswith("/proc/self/fd/") else source
            folder = path_of(dst_dir_fd) if dst_dir_fd is not None else ""
            true["link"](source, target, dst_dir_fd=dst_dir_fd, **options)
            self.note("link", os.path.join(folder, target))
            self.note("linked-from", name)

        def rename(source: str, target: str, **options: Any) -> None:
            true["rename"](source, target, **options)
            self.note("renamed-from", str(source))
            self.note("rename", str(target))

        def mkdir(path: str, *args: Any, **options: Any) -> None:
            true["mkdir"](path, *args, **options)
            self.note("mkdir", str(path))

        def symlink(source: str, target: str) -> None:
            true["symlink"](source, target)
            self.note("symlink", str(target))

        def lmdb_write(index: Index, work: Any) -> Any:
            answer = true_write(index, work)
            self.note("lmdb", "")
            return answer

        for function in (write, fsync, link, rename, mkdir, symlink):
            patch.setattr(os, function.__name__, function)
        patch.setattr(Index, "_write", lmdb_write)

    def note(self, what: str, path: str) -> None:
        with self._lock:
            self.calls.append(Call(what, path))

    def where(self, what: str, part: str) -> list[int]:
        return [i for i, call in enumerate(self.calls) if call.what == what and part in call.path]

    def durable(self, at: int) -> int:
        """When the link or rename at `at` became durable: its folder's next sync."""
        folder = os.path.dirname(self.calls[at].path)
        return next(i for i in range(at, len(self.calls)) if self.calls[i] == Call("sync", folder))

    def synced_before(self, at: int, path: str) -> bool:
        """Whether the file was synced after the last write to it before `at`."""
        done = [call.what for call in self.calls[:at] if call.path == path and call.what in ("write", "sync")]
        return bool(done) and done[-1] == "sync"


@pytest.fixture
def traced(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Tracer]]:
    """The calls of a second point, with several packs; the item, its folders and its parent are there."""
    image = site.root / "disk.img"
    image.write_bytes(noise(64 * CHUNK, 1))
    site.take(image)
    write_at(image, 0, noise(51 * CHUNK, 2))
    monkeypatch.setattr("blockvault.engine.packing.PACK_BYTES", 8 * CHUNK)
    monkeypatch.setattr("blockvault.pipeline.BATCH_BYTES", 8 * CHUNK)
    with monkeypatch.context() as patch:
        tracer = Tracer(patch)
        site.vault.snapshot([str(image)], keep=False)
    site.remember("2")
    yield site, tracer
    site.sound()


def test_each_step_is_durable_before_the_next(traced: tuple[Site, Tracer]) -> None:
    _, tracer = traced
    steps = {
        "packs": [tracer.durable(at) for at in tracer.where("link", "/main/packs/")],
        "layers": [tracer.durable(at) for at in tracer.where("link", "/main/layers/")],
        "point": [tracer.durable(at) for at in tracer.where("link", "/points/")],
        "lmdb": tracer.where("lmdb", ""),
        "digests": [tracer.durable(at) for at in tracer.where("rename", "/point.head")],
        "host": [tracer.durable(at) for at in tracer.where("rename", "/host.json")][1:],  # the first: the number
    }
    assert len(steps["packs"]) >= 4, "several packs, so that their order against the layer is shown"
    assert len(steps["layers"]) == len(steps["point"]) == len(steps["digests"]) == 1
    begins = {
        "packs": tracer.where("link", "/main/packs/"),
        "layers": tracer.where("link", "/main/layers/"),
        "point": tracer.where("link", "/points/"),
        "lmdb": tracer.where("lmdb", ""),
        "digests": tracer.where("rename", "/point.head"),
        "host": tracer.where("rename", "/host.json")[1:],
    }
    names = list(steps)
    for earlier, later in pairwise(names):
        assert max(steps[earlier]) < min(begins[later]), f"{earlier} are durable before {later}"


def test_an_index_segment_names_durable_packs_only(traced: tuple[Site, Tracer]) -> None:
    _, tracer = traced
    packs = [tracer.durable(at) for at in tracer.where("link", "/main/packs/")]
    (segment,) = tracer.where("link", "/main/index/")
    assert max(packs) < segment
    assert tracer.durable(segment) < min(tracer.where("lmdb", ""))


def test_bytes_are_durable_before_their_name(traced: tuple[Site, Tracer]) -> None:
    """File, then folder: for every object that appears and for every file that is replaced."""
    _, tracer = traced
    appeared = tracer.where("linked-from", "")
    replaced = [at for at in tracer.where("renamed-from", "") if "/lmdb/" not in tracer.calls[at].path]
    assert len(appeared) >= 8
    assert len(replaced) >= 3
    for at in appeared + replaced:
        assert tracer.synced_before(at, tracer.calls[at].path), tracer.calls[at]


def test_a_new_folder_is_durable_before_what_lies_in_it_counts(traced: tuple[Site, Tracer]) -> None:
    site, tracer = traced
    (commit,) = tracer.where("link", "/points/")
    made = [at for at in tracer.where("mkdir", str(site.folder / "main")) if at < commit]
    assert made, "packs go into new folders"
    for at in made:
        parent = os.path.dirname(tracer.calls[at].path)
        assert Call("sync", parent) in tracer.calls[at:commit], f"{tracer.calls[at].path} is durable"


def test_the_folders_and_the_name_of_a_new_vault_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a vault that was made is found, by its name too, however deep the folders are that it made."""
    with monkeypatch.context() as patch:
        tracer = Tracer(patch)
        state, place = tmp_path / "a" / "b" / "state", tmp_path / "c" / "d" / "vault"
        Vault.create("far", path=str(place), state_dir=str(state)).close()
    made = [call.path for call in tracer.calls if call.what == "mkdir"]
    assert {str(tmp_path / "a"), str(state), str(tmp_path / "c"), str(place.parent)} <= set(made)
    for at in tracer.where("mkdir", "") + tracer.where("symlink", "") + tracer.where("rename", ""):
        if os.path.basename(tracer.calls[at].path) not in ("lmdb", "locks"):  # what lies in them may be lost
            tracer.durable(at)
    assert tracer.where("symlink", "vaults/far")


def test_the_digest_cells_are_durable_before_their_head(traced: tuple[Site, Tracer]) -> None:
    _, tracer = traced
    (head,) = tracer.where("rename", "/point.head")
    cells = {tracer.calls[at].path for at in tracer.where("sync", ".cells") if at < head}
    assert cells
    (commit,) = tracer.where("link", "/points/")
    assert commit < head


def test_an_object_is_never_overwritten(site: Site) -> None:
    """Create-only: the second writer is refused, and what the first wrote stays."""
    store = forge.session(site).store
    store.put_new("points/x/1", b"first")
    with pytest.raises(AlreadyExistsError):
        store.put_new("points/x/1", b"second")
    assert store.read("points/x/1") == b"first"


def test_a_number_that_another_writer_took_is_a_conflict(site: Site) -> None:
    """Two processes with one number (a copied host state): the second has no point, and the first's stays whole."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    state = (site.host / "host.json").read_bytes()
    write_at(image, 0, noise(CHUNK, 2))
    site.take(image)
    opened = forge.session(site)
    true = opened.host.allocate_number
    opened.host.allocate_number = lambda above: 2
    write_at(image, 0, noise(CHUNK, 3))
    with pytest.raises(ConflictError) as caught:
        site.vault.snapshot([str(image)], keep=False)
    assert caught.value.kind == "point.exists"
    opened.host.allocate_number = true
    assert state
    site.sound()
    site.take(image)
    site.sound()


def test_already_there_is_success_with_ones_own_write_id(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a create was lost and it was sent again: what is there is one's own."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    write_at(image, 0, noise(CHUNK, 2))
    true = LocalStore.put_new

    def put_twice(self: LocalStore, name: str, data: bytes) -> None:
        true(self, name, data)
        if name.startswith("points/"):
            true(self, name, data)

    monkeypatch.setattr(LocalStore, "put_new", put_twice)
    site.take(image)
    monkeypatch.undo()
    site.sound()


@pytest.mark.parametrize("folder", ["points", "marks", "items", "main/index", "main/packs", "main/layers"])
def test_files_of_other_programs_do_no_harm(site: Site, folder: str) -> None:
    """What a file server, a sync tool or a person leaves in the vault's folders."""
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    top = site.folder / folder
    inner = next((path for path in top.iterdir() if path.is_dir()), top) if top.is_dir() else top
    for place in {top, inner}:
        place.mkdir(parents=True, exist_ok=True)
        for name in (".DS_Store", ".nfs00000001", "~lock.file#", "lost+found", "README", "Ümlaut", "4711", "²"):
            Path(place, name).write_bytes(b"not yours")
        Path(place, ".stfolder").mkdir()
        Path(place, "a folder").mkdir()
    site.reopen()
    write_at(image, 0, noise(CHUNK, 2))
    site.take(image)
    site.lose_index()
    site.check_all()
    site.vault.verify()
