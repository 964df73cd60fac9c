"""A program to run and a small disk image of real files to run it on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.program import Program

from blockvault.workload import build_image

MIB = 1 << 20


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture(scope="session")
def built_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "built.img"
    build_image(str(path), 12 * MIB, seed=3)
    return path


@pytest.fixture
def make_disk(program: Program, built_image: Path) -> Callable[[str], Path]:
    """`make_disk(name)`: a disk image of that name in the program's working folder."""

    def make(name: str = "disk.img") -> Path:
        path = program.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built_image, path)
        return path

    return make


@pytest.fixture
def disk(make_disk: Callable[[str], Path]) -> Path:
    return make_disk("disk.img")
