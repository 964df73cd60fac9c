"""Opening a vault beside others that open it, commit to it, or make its index grow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

import blockvault
from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError
from blockvault.ids import PackName
from blockvault.store import folder
from blockvault.store import index as index_module
from blockvault.store.folder import create_vault
from blockvault.store.index import Index
from blockvault.store.locks import FileLock
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 16
OPENING = """
import sys
from blockvault.vault import Vault

for line in sys.stdin:
    try:
        with Vault.open_or_create(state_dir=line.strip()) as vault:
            vault.points()
            print("origin", vault.origin, flush=True)
    except Exception as error:
        print(repr(error), flush=True)
"""
GROWING = """
import sys
import numpy as np
from blockvault.clock import utc_now
from blockvault.ids import PackName
from blockvault.store.index import Index

index = Index(sys.argv[1], "identity", now=utc_now(), note=sys.argv[1] + ".note")
for line in sys.stdin:
    first = int(line)
    prefixes = np.arange(first, first + 4000, dtype=np.uint64)
    index.add_blocks([PackName(bytes(16))], prefixes, np.zeros(4000, np.uint32), np.arange(4000, dtype=np.uint32), None)
    print("grown", flush=True)
"""


class Other:
    """A process that does one thing for each line it is sent."""

    def __init__(self, script: str, *arguments: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(blockvault.__file__).parents[1])},
        )

    def send(self, line: object) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def other() -> object:
    with ExitStack() as stack:

        def start(script: str, *arguments: Path) -> Other:
            started = Other(script, *arguments)
            stack.callback(started.close)
            return started

        yield start


# --- opening at once -------------------------------------------------------------------------------------------


def nothing_yet(state: Path) -> None:
    """No vault: one of them makes it."""
    state.mkdir()


def no_index_yet(state: Path) -> None:
    state.mkdir()
    create_vault(
        str(state / "vaults" / "default"), "default", chunk_size=CHUNK, secret=None, soft_delete_days=14, now=utc_now()
    )


def index_of_another_folder(state: Path) -> None:
    """As in a copied vault: the index is removed and made anew."""
    with Vault.create(state_dir=str(state), chunk_size=CHUNK):
        pass
    header = state / "vaults" / "default" / "vault.json"
    os.utime(header, ns=(1, 1))


@pytest.mark.parametrize("begin", [nothing_yet, no_index_yet, index_of_another_folder])
def test_processes_that_open_a_vault_at_once_all_open_it(
    tmp_path: Path, other: Callable[..., Other], begin: Callable[[Path], None]
) -> None:
    processes = [other(OPENING) for _ in range(3)]
    for number in range(ROUNDS):
        state = tmp_path / str(number)
        begin(state)
        for process in processes:
            process.send(state)
        answers = {process.answer() for process in processes}
        with Vault.open(state_dir=str(state)) as vault:
            assert answers == {f"origin {vault.origin}"}
            assert vault.verify().damage == ()


def test_an_index_that_is_being_opened_is_waited_for(tmp_path: Path, other: Callable[..., Other]) -> None:
    """The lock file lies beside the folder, which may be removed while it is held."""
    no_index_yet(tmp_path / "state")
    folder = tmp_path / "state" / "vaults" / "default"
    with Vault.open(state_dir=str(tmp_path / "state")) as vault:
        origin = vault.origin
    process = other(OPENING)
    with FileLock(str(folder / "lmdb.lock"), kind="vault.locked", subject="the test", now=utc_now()):
        process.send(tmp_path / "state")
        reader = threading.Thread(target=lambda: answers.append(process.answer()))
        answers: list[str] = []
        reader.start()
        reader.join(1.0)
        assert answers == []
    reader.join(30)
    assert answers == [f"origin {origin}"]


# --- opening beside a commit -----------------------------------------------------------------------------------


def test_a_commit_between_listing_and_looking_is_no_vault_that_was_rolled_back(site: Site) -> None:
    """The vault is listed under the lock that a commit is noted under."""
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    site.take(image)
    opened = site.vault._session
    noted = threading.Event()

    def note() -> None:
        opened.host.committed(opened.origin, 2)
        noted.set()

    committing = threading.Thread(target=note)

    def listed_before_a_commit() -> dict[str, int]:
        newest = opened.catalog.newest_numbers()
        committing.start()
        noted.wait(0.5)
        return newest

    record = opened.host.bind(listed_before_a_commit)
    committing.join(30)
    assert noted.is_set()
    assert record.origin == opened.origin


def test_opening_beside_commits_keeps_the_origin(site: Site, other: Callable[..., Other]) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(4 * CHUNK, 1))
    origin = site.vault.origin
    process = other(OPENING)
    for number in range(ROUNDS):
        write_at(image, (number % 4) * CHUNK, noise(CHUNK, 10 + number))
        process.send(site.state)
        site.take(image)
        assert process.answer() == f"origin {origin}"
    assert site.reopen().origin == origin
    assert len(site.objects("origins")) == 1
    site.sound()


# --- the index growing -----------------------------------------------------------------------------------------


def identities(prefixes: np.ndarray) -> np.ndarray:
    """Ids that begin with these prefixes."""
    ids = np.zeros((len(prefixes), 32), dtype=np.uint8)
    ids[:, :8] = prefixes.astype(">u8").view(np.uint8).reshape(-1, 8)
    return ids


def test_the_map_grows_while_other_threads_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAP_BYTES_START", 128 << 10)
    index = Index(str(tmp_path / "lmdb"), "identity", now=utc_now(), note=str(tmp_path / "lmdb.note"))
    start = index._environment.info()["map_size"]
    pack, count = PackName(bytes(16)), 2000
    done = threading.Event()
    failures: list[BlockVaultError] = []
    rounds = [0] * 3

    def read(reader: int) -> None:
        ids = identities(np.arange(0, 40 * count, 97, dtype=np.uint64))
        try:
            while not done.is_set():
                index.find_blocks(ids)
                index.segments()
                rounds[reader] += 1
        except BlockVaultError as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(3)]
    for thread in threads:
        thread.start()
    for step in range(40):
        prefixes = np.arange(step * count, (step + 1) * count, dtype=np.uint64)
        slots = np.arange(step * count, (step + 1) * count, dtype=np.uint32)
        index.add_blocks([pack], prefixes, np.zeros(count, np.uint32), slots, f"{step}")
    done.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert min(rounds) > 0
    assert index._environment.info()["map_size"] >= 8 * start
    assert index.find_blocks(identities(np.arange(40 * count, dtype=np.uint64))) == [
        (pack, slot) for slot in range(40 * count)
    ]
    index.close()


def test_the_map_that_another_process_made_grow_is_read_and_written(
    tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "MAP_BYTES_START", 128 << 10)
    index = Index(str(tmp_path / "lmdb"), "identity", now=utc_now(), note=str(tmp_path / "lmdb.note"))
    process = other(GROWING, tmp_path / "lmdb")
    for step in range(6):
        process.send(step * 8000)
        assert process.answer() == "grown"
        theirs = identities(np.arange(step * 8000, step * 8000 + 4000, dtype=np.uint64))
        if step % 2:
            assert all(index.find_blocks(theirs))
        ours = np.arange(step * 8000 + 4000, step * 8000 + 4100, dtype=np.uint64)
        index.add_blocks([PackName(bytes(16))], ours, np.zeros(100, np.uint32), np.zeros(100, np.uint32), None)
        assert all(index.find_blocks(identities(ours)))
        assert all(index.find_blocks(theirs))
    index.close()


def test_a_vault_that_appears_between_two_looks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is there, its header was not a moment ago: it came with one rename in between."""
    place = tmp_path / "vaults" / "default"
    true_read = folder._header_bytes

    def too_early(file: str) -> bytes:
        monkeypatch.setattr(folder, "_header_bytes", true_read)
        create_vault(str(place), "default", chunk_size=CHUNK, secret=None, soft_delete_days=14, now=utc_now())
        raise FileNotFoundError(file)

    monkeypatch.setattr(folder, "_header_bytes", too_early)
    assert folder.read_header(str(place)).chunk_size == CHUNK
