"""The generator: same seed, same bytes; churn touches what it says and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard

from blockvault import workload
from blockvault.errors import InvalidInputError
from blockvault.units import MIB, PAGE_BYTES
from blockvault.workload import Churn, apply_churn, build_image

SIZE = 32 * MIB


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workload") / "built.img"
    build_image(str(path), SIZE, seed=5)
    return path


@pytest.fixture
def image(built: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "disk.img"
    shutil.copyfile(built, copy)
    return copy


def pages(path: Path) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data, np.uint64).reshape(-1, PAGE_BYTES // 8)


def test_image_is_a_file_system_of_real_files_and_repeats_from_its_seed(tmp_path: Path) -> None:
    reports = [build_image(str(tmp_path / name), SIZE, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in "abc"]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    for report in reports:
        assert os.stat(report.path).st_size == SIZE
        assert SIZE // 4 < report.data_bytes <= SIZE
        assert report.file_count > 1
    assert os.stat(tmp_path / "a").st_blocks * 512 < SIZE  # sparse where there is no data
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]  # the staged tree is gone
    if reports[0].kind == "ext4":
        assert subprocess.run(["e2fsck", "-fn", tmp_path / "a"], capture_output=True).returncode == 0


def test_data_compresses_as_real_data_does(built: Path) -> None:
    data = built.read_bytes()
    ratio = len(data) / len(zstandard.ZstdCompressor(level=1).compress(data))
    assert 1.2 < ratio < 20


def test_without_mkfs_files_are_packed_page_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "_FILE_TOOLS", ("mkfs-that-no-machine-has",))
    tree = tmp_path / "tree"
    tree.mkdir()
    for index in range(40):
        (tree / f"file{index}").write_bytes(bytes([index + 1]) * 5000)
    report = build_image(str(tmp_path / "packed.img"), MIB, 3, trees=(str(tree),))
    assert report.kind == "packed"
    assert report.size == os.stat(report.path).st_size == MIB
    starts = pages(Path(report.path))[: 2 * report.file_count : 2, 0]
    assert len(set(starts.tolist())) == report.file_count  # each file begins on its own page


def test_no_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        build_image(str(tmp_path / "x.img"), MIB, 1, trees=(str(tmp_path / "nothing"),))
    assert caught.value.kind == "workload.no-files"


@pytest.mark.parametrize("model", list(Churn))
def test_churn_counts_exactly_the_pages_it_changes(image: Path, model: Churn) -> None:
    before = pages(image)
    held_data = before.any(axis=1)
    report = apply_churn(str(image), model, seed=9)
    after = pages(image)
    assert len(after) == len(before)
    differing = (before != after).any(axis=1)
    assert int(differing.sum()) == report.pages_changed
    assert report.changed_bytes == report.pages_changed * PAGE_BYTES
    assert report.data_pages == int(held_data.sum())
    share = report.pages_changed / report.data_pages
    expected = {Churn.NOTHING: 0.0, Churn.REWRITE_20: 0.2}.get(model, 0.01)
    assert abs(share - expected) < 0.02 * expected + 1e-3
    if model is Churn.APPEND:
        assert not (differing & held_data).any()
    else:
        assert not (differing & ~held_data).any()


@pytest.mark.parametrize("model", [Churn.RANDOM_PAGES, Churn.SMALL_EDITS, Churn.APPEND])
def test_churn_repeats_from_its_seed(built: Path, tmp_path: Path, model: Churn) -> None:
    results = []
    for index, seed in enumerate((4, 4, 6)):
        copy = tmp_path / f"{index}.img"
        shutil.copyfile(built, copy)
        apply_churn(str(copy), model, seed)
        results.append(copy.read_bytes())
    assert results[0] == results[1]
    if model is not Churn.APPEND:
        assert results[0] != results[2]


def test_small_edits_stay_within_256_bytes_of_a_page(image: Path) -> None:
    before = np.frombuffer(image.read_bytes(), np.uint8).reshape(-1, PAGE_BYTES)
    apply_churn(str(image), Churn.SMALL_EDITS, seed=2)
    after = np.frombuffer(image.read_bytes(), np.uint8).reshape(-1, PAGE_BYTES)
    for page in np.flatnonzero((before != after).any(axis=1)):
        where = np.flatnonzero(before[page] != after[page])
        assert where[-1] - where[0] < workload.EDIT_BYTES


def test_replaced_pages_exist_nowhere_else(image: Path) -> None:
    before = pages(image)
    known = {page.tobytes() for page in before}
    apply_churn(str(image), Churn.RANDOM_PAGES, seed=2)
    after = pages(image)
    new = [page.tobytes() for page in after[(before != after).any(axis=1)]]
    assert sum(page in known for page in new) <= len(new) // 10


def test_append_grows_an_image_without_room(tmp_path: Path) -> None:
    full = tmp_path / "full.img"
    full.write_bytes(os.urandom(256 * PAGE_BYTES))
    report = apply_churn(str(full), Churn.APPEND, seed=1, fraction=0.5)
    assert report.pages_changed == 128
    assert full.stat().st_size == 384 * PAGE_BYTES


def test_an_image_without_data_stays_as_it_is(tmp_path: Path) -> None:
    hollow = tmp_path / "hollow.img"
    with hollow.open("wb") as stream:
        stream.truncate(MIB)
    for model in Churn:
        assert apply_churn(str(hollow), model, seed=1).pages_changed == 0
    assert hollow.stat().st_blocks == 0
