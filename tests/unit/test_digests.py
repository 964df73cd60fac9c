"""The digest state says what it was told, for the record it was told it for, or nothing at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blockvault import failpoints
from blockvault.errors import CorruptionError, DeviceError
from blockvault.model.geometry import CELL_CHUNKS
from blockvault.store.digests import DigestState, DigestWriter

CHUNK = 65_536
CELL_BYTES = CELL_CHUNKS * CHUNK
SEED = 0xFEED_F00D_DEAD_BEEF
RECORD = b"r" * 16
OTHER = b"s" * 16
BIND = {"vault_id": "ab" * 16, "disk": "vda", "chunk_size": CHUNK, "seed": SEED}


def random_cell(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


def writer(folder: Path, size: int, base: DigestState | None = None, **other: object) -> DigestWriter:
    return DigestWriter(str(folder), **{**BIND, **other}, size=size, base=base)  # type: ignore[arg-type]


def opened(
    folder: Path, record: bytes = RECORD, role: str = "point", size: int | None = None, **other: object
) -> DigestState | None:
    return DigestState.open(str(folder), role, record_digest=record, size=size, **{**BIND, **other})  # type: ignore[arg-type]


def make(
    folder: Path,
    size: int,
    cells: dict[int, np.ndarray],
    base: DigestState | None = None,
    record: bytes = RECORD,
) -> DigestState:
    new = writer(folder, size, base)
    for index, cell in cells.items():
        new.put(index, cell)
    new.finish()
    new.switch("point", record)
    new.close()
    state = opened(folder, record)
    assert state is not None
    return state


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".cells"))


def test_what_was_put_is_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    size = 3 * CELL_BYTES + 10 * CHUNK + 1
    cells = {0: random_cell(CELL_CHUNKS, 1), 2: random_cell(CELL_CHUNKS, 2), 3: random_cell(11, 3)}
    cells[2][40_000:] = 0
    state = make(folder, size, cells)
    assert state.size == size
    assert state.stated_cells() == [0, 2, 3]
    for index, cell in cells.items():
        assert np.array_equal(state.cell(index, len(cell)), cell)
    assert not state.cell(1, CELL_CHUNKS).any()
    assert np.array_equal(state.cell(0, 5), cells[0][:5])
    assert os.stat(folder / files(folder)[0]).st_size == 16 * (CELL_CHUNKS + 40_000 + 11)


def test_a_disk_without_data_has_no_file(tmp_path: Path) -> None:
    state = make(tmp_path, CELL_BYTES, {0: np.zeros((CELL_CHUNKS, 16), np.uint8)})
    assert state.stated_cells() == []
    assert files(tmp_path) == []
    assert make(tmp_path / "empty", 0, {}).size == 0


def test_only_changed_cells_are_written(tmp_path: Path) -> None:
    size = 4 * CELL_BYTES
    cells = {index: random_cell(CELL_CHUNKS, index) for index in range(4)}
    first = make(tmp_path, size, cells)
    changed = random_cell(CELL_CHUNKS, 9)
    second = make(tmp_path, size, {0: cells[0], 1: changed, 3: np.zeros((CELL_CHUNKS, 16), np.uint8)}, first, OTHER)
    assert np.array_equal(second.cell(0, CELL_CHUNKS), cells[0])
    assert np.array_equal(second.cell(1, CELL_CHUNKS), changed)
    assert np.array_equal(second.cell(2, CELL_CHUNKS), cells[2])
    assert second.stated_cells() == [0, 1, 2]
    sizes = sorted(os.stat(tmp_path / name).st_size for name in files(tmp_path))
    assert sizes == [16 * CELL_CHUNKS, 4 * 16 * CELL_CHUNKS]
    # the older state is refused, but who has it open reads on
    assert opened(tmp_path, RECORD) is None
    assert np.array_equal(first.cell(1, CELL_CHUNKS), cells[1])


def test_shrinking_and_growing_again_brings_nothing_back(tmp_path: Path) -> None:
    cells = {0: random_cell(CELL_CHUNKS, 1), 1: random_cell(CELL_CHUNKS, 2)}
    whole = make(tmp_path, 2 * CELL_BYTES, cells)
    small = make(tmp_path, 100 * CHUNK - 1, {}, whole)
    assert small.stated_cells() == [0]
    assert np.array_equal(small.cell(0, 100), cells[0][:100])
    grown = make(tmp_path, 2 * CELL_BYTES, {}, small)
    assert grown.stated_cells() == [0]
    assert np.array_equal(grown.cell(0, 100), cells[0][:100])
    assert not grown.cell(0, CELL_CHUNKS)[100:].any()
    assert not grown.cell(1, CELL_CHUNKS).any()


@pytest.mark.parametrize(
    "other",
    [
        {"vault_id": "cd" * 16},
        {"record": OTHER},
        {"disk": "vdb"},
        {"size": CELL_BYTES + 1},
        {"chunk_size": 2 * CHUNK},
        {"seed": SEED + 1},
        {"role": "snapshot"},
    ],
)
def test_what_does_not_match_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    make(tmp_path, CELL_BYTES, {0: random_cell(CELL_CHUNKS, 1)})
    assert opened(tmp_path, size=CELL_BYTES) is not None
    assert opened(tmp_path, **other) is None  # type: ignore[arg-type]


def test_the_seed_is_not_in_the_files(tmp_path: Path) -> None:
    make(tmp_path, CELL_BYTES, {0: random_cell(10, 1)})
    head = (tmp_path / "point.head").read_bytes()
    for order in ("little", "big"):
        assert SEED.to_bytes(8, order) not in head  # type: ignore[arg-type]
    assert str(SEED).encode() not in head


def test_any_flipped_byte_of_a_head_refuses_it(tmp_path: Path) -> None:
    make(tmp_path, CELL_BYTES, {0: random_cell(10, 1)})
    path = tmp_path / "point.head"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        assert opened(tmp_path) is None, position
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert opened(tmp_path) is None, length
    path.write_bytes(whole)
    assert opened(tmp_path) is not None


def test_a_flipped_byte_of_a_cell_is_named_and_the_others_stay_readable(tmp_path: Path) -> None:
    cells = {0: random_cell(CELL_CHUNKS, 1), 1: random_cell(CELL_CHUNKS, 2)}
    make(tmp_path, 2 * CELL_BYTES, cells)
    path = tmp_path / files(tmp_path)[0]
    with path.open("r+b") as file:
        file.seek(16 * CELL_CHUNKS + 777)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    state = opened(tmp_path)
    assert state is not None
    assert np.array_equal(state.cell(0, CELL_CHUNKS), cells[0])
    with pytest.raises(CorruptionError) as caught:
        state.cell(1, CELL_CHUNKS)
    assert caught.value.kind == "digests.damaged"


def test_a_missing_or_short_cells_file_refuses_the_state(tmp_path: Path) -> None:
    make(tmp_path, CELL_BYTES, {0: random_cell(CELL_CHUNKS, 1)})
    path = tmp_path / files(tmp_path)[0]
    os.truncate(path, os.stat(path).st_size - 1)
    assert opened(tmp_path) is None
    path.unlink()
    assert opened(tmp_path) is None


def test_two_cells_swapped_are_found(tmp_path: Path) -> None:
    make(tmp_path, 2 * CELL_BYTES, {0: random_cell(CELL_CHUNKS, 1), 1: random_cell(CELL_CHUNKS, 2)})
    path = tmp_path / files(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data[16 * CELL_CHUNKS :] + data[: 16 * CELL_CHUNKS])
    state = opened(tmp_path)
    assert state is not None
    for index in (0, 1):
        with pytest.raises(CorruptionError):
            state.cell(index, CELL_CHUNKS)


def test_one_writer_serves_both_roles(tmp_path: Path) -> None:
    cell = random_cell(CELL_CHUNKS, 1)
    new = writer(tmp_path, CELL_BYTES)
    new.put(0, cell)
    new.finish()
    new.switch("snapshot", RECORD)
    new.switch("point", OTHER)
    new.close()
    assert len(files(tmp_path)) == 1
    for role, record in (("snapshot", RECORD), ("point", OTHER)):
        state = opened(tmp_path, record, role)
        assert state is not None
        assert np.array_equal(state.cell(0, CELL_CHUNKS), cell)
    # replacing one role keeps the file that the other still lists
    make(tmp_path, CELL_BYTES, {0: random_cell(CELL_CHUNKS, 2)})
    state = opened(tmp_path, RECORD, "snapshot")
    assert state is not None
    assert np.array_equal(state.cell(0, CELL_CHUNKS), cell)


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    make(tmp_path, CELL_BYTES, {0: random_cell(CELL_CHUNKS, 1)})
    before = sorted(os.listdir(tmp_path))
    new = writer(tmp_path, CELL_BYTES, opened(tmp_path))
    new.put(0, random_cell(CELL_CHUNKS, 2))
    new.finish()
    new.abort()
    new.abort()
    assert sorted(os.listdir(tmp_path)) == before
    assert opened(tmp_path) is not None


def test_another_role_switching_takes_nothing_from_a_writer_at_work(tmp_path: Path) -> None:
    slow = writer(tmp_path, CELL_BYTES)
    cell = random_cell(CELL_CHUNKS, 1)
    slow.put(0, cell)
    quick = writer(tmp_path, CELL_BYTES)
    quick.put(0, random_cell(CELL_CHUNKS, 2))
    quick.finish()
    quick.switch("snapshot", OTHER)
    quick.close()
    slow.finish()
    slow.switch("point", RECORD)
    slow.close()
    state = opened(tmp_path)
    assert state is not None
    assert np.array_equal(state.cell(0, CELL_CHUNKS), cell)


def test_the_base_may_be_closed_and_its_record_replaced_meanwhile(tmp_path: Path) -> None:
    cells = {0: random_cell(CELL_CHUNKS, 1), 1: random_cell(CELL_CHUNKS, 2)}
    base = make(tmp_path, 2 * CELL_BYTES, cells)
    slow = writer(tmp_path, 2 * CELL_BYTES, base)
    base.close()
    make(tmp_path, 2 * CELL_BYTES, {0: random_cell(CELL_CHUNKS, 3)}, record=OTHER)
    changed = random_cell(CELL_CHUNKS, 4)
    slow.put(1, changed)
    slow.finish()
    slow.switch("point", RECORD)
    slow.close()
    state = opened(tmp_path)
    assert state is not None
    assert np.array_equal(state.cell(0, CELL_CHUNKS), cells[0])
    assert np.array_equal(state.cell(1, CELL_CHUNKS), changed)


def test_many_generations_stay_few_files_and_little_waste(tmp_path: Path) -> None:
    cell_total = 40
    size = cell_total * CELL_BYTES
    truth = {index: random_cell(500, index) for index in range(cell_total)}
    state = make(tmp_path, size, truth)
    for generation in range(60):
        index = (generation * 7) % cell_total
        truth[index] = random_cell(500, 1000 + generation)
        record = generation.to_bytes(16, "big")
        newer = make(tmp_path, size, {index: truth[index]}, state, record)
        state.close()
        state = newer
        held = sum(os.stat(tmp_path / name).st_size for name in files(tmp_path))
        assert held <= 2 * cell_total * 500 * 16
        assert len(files(tmp_path)) <= 17
    for index, cell in truth.items():
        assert np.array_equal(state.cell(index, 500), cell)


def test_a_damaged_cell_is_never_hidden_by_gathering(tmp_path: Path) -> None:
    size = 4 * CELL_BYTES
    state = make(tmp_path, size, {index: random_cell(100, index) for index in range(4)})
    path = tmp_path / files(tmp_path)[0]
    with path.open("r+b") as file:
        file.write(b"\xff\xff")
    newer = make(tmp_path, size, {index: random_cell(100, 10 + index) for index in (1, 2, 3)}, state, OTHER)
    assert np.array_equal(newer.cell(3, 100), random_cell(100, 13))
    with pytest.raises(CorruptionError):
        newer.cell(0, 100)
    # told once more what it holds, it is whole again
    mended = make(tmp_path, size, {0: random_cell(100, 0)}, newer, RECORD)
    assert np.array_equal(mended.cell(0, 100), random_cell(100, 0))


def test_a_full_disk_is_told_and_the_state_before_stays(tmp_path: Path) -> None:
    cell = random_cell(CELL_CHUNKS, 1)
    state = make(tmp_path, CELL_BYTES, {0: cell})

    def full(name: str) -> None:
        if name in {"digests.cell", "digests.sync", "digests.head"}:
            raise OSError(errno.ENOSPC, "No space left on device")

    before = failpoints.set_hook(full)
    try:
        new = writer(tmp_path, CELL_BYTES, state)
        with pytest.raises(DeviceError) as caught:
            new.put(0, random_cell(CELL_CHUNKS, 2))
        assert caught.value.kind == "store.no-space"
        with pytest.raises(DeviceError):
            new.switch("point", OTHER)
        new.abort()
    finally:
        failpoints.set_hook(before)
    again = opened(tmp_path)
    assert again is not None
    assert np.array_equal(again.cell(0, CELL_CHUNKS), cell)
    assert sorted(os.listdir(tmp_path)) == sorted(["point.head", *files(tmp_path)])
    assert len(files(tmp_path)) == 1


CRASH = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[3])
from test_digests import BIND, OTHER, opened, random_cell, writer
from pathlib import Path
folder = Path(sys.argv[1])
new = writer(folder, int(sys.argv[2]), opened(folder))
new.put(0, random_cell(100, 2))
new.finish()
new.switch("point", OTHER)
"""


@pytest.mark.parametrize("step", ["digests.cell", "digests.sync", "digests.head", "digests.switched"])
def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "state"
    old = make(folder, CELL_BYTES, {0: random_cell(100, 1)})
    old.close()
    environment = {**os.environ, "BLOCKVAULT_FAILPOINT": step}
    command = [sys.executable, "-c", CRASH, str(folder), str(CELL_BYTES), os.path.dirname(__file__)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    states = [opened(folder), opened(folder, OTHER)]
    assert [state is not None for state in states] == ([False, True] if step == "digests.switched" else [True, False])
    state = states[0] or states[1]
    assert state is not None
    assert np.array_equal(state.cell(0, 100), random_cell(100, 1 if states[0] else 2))
    state.close()
    make(folder, CELL_BYTES, {0: random_cell(100, 3)}).close()
    assert len(files(folder)) == 1
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]
