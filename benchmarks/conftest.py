"""The image that all measure on, the folder they work in, and the refusal of a debug build."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.machine import machine_sheet
from blockvault.bench import release_build
from blockvault.errors import BlockVaultError
from blockvault.units import parse_size
from blockvault.workload import build_image

SEED = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("blockvault")
    group.addoption(
        "--image-size",
        default=os.environ.get("BLOCKVAULT_BENCH_SIZE", "4G"),
        help="size of the disk image; three quarters of it are real files (default 4G, or $BLOCKVAULT_BENCH_SIZE)",
    )
    group.addoption(
        "--bench-folder",
        default=os.environ.get("BLOCKVAULT_BENCH_FOLDER"),
        help="work here and keep the image for the next run (default: a temporary folder, removed)",
    )
    group.addoption("--rounds", type=int, default=5, help="rounds of each measurement of a whole process")


def pytest_configure() -> None:
    """A debug build is many times slower: refuse to measure it."""
    try:
        release_build()
    except BlockVaultError as error:
        raise pytest.UsageError(f"{error.message}: {error.do}") from None


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["sheet"] = machine_sheet(config.getoption("--bench-folder") or tempfile.gettempdir())
    machine_info["image_size"] = config.getoption("--image-size")


@dataclass(frozen=True)
class Bench:
    """A folder to work in and the image that no one changes."""

    folder: str
    image: str
    size: int
    data_bytes: int
    rounds: int

    def path(self, name: str) -> str:
        """A path in the work folder."""
        return os.path.join(self.folder, name)

    def fresh(self, name: str) -> str:
        """A path in the work folder where nothing is."""
        path = self.path(name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        return path

    def copy_of_image(self, name: str) -> str:
        """A copy of the image that may be changed."""
        path = self.fresh(name)
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.image, path], check=True)
        return path


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    size = parse_size(request.config.getoption("--image-size"))
    kept = request.config.getoption("--bench-folder")
    folder = kept or tempfile.mkdtemp(prefix="blockvault-benchmarks-")
    try:
        os.makedirs(folder, exist_ok=True)
        image = os.path.join(folder, f"image-{size}-{SEED}.img")
        if not os.path.exists(image):
            build_image(f"{image}.new", size, SEED)
            os.rename(f"{image}.new", image)
        with open(image, "rb") as source:  # warm the page cache: all is measured warm
            while source.read(1 << 20):
                pass
        data_bytes = os.stat(image).st_blocks * 512
        yield Bench(folder, image, size, data_bytes, request.config.getoption("--rounds"))
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
