"""Folders in memory, and one true vault for all tests of a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile import fuzz
from hostile.world import World


@pytest.fixture
def fast_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hostile-", dir=fuzz.fast_folder()) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="hostile-", dir=fuzz.fast_folder()) as folder:
        yield World(Path(folder))
