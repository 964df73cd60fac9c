"""A host with a vault for each test; real file systems and devices, always taken down.

What needs root, or a tool that is not there, skips with the reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blockvault import failpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helpers.site import Site

    from blockvault.failpoints import Hook

MIB = 1 << 20

# The configuration of the machine that tests run on says nothing in them.
os.environ["BLOCKVAULT_CONFIG_DIR"] = os.path.join(os.path.dirname(__file__), "no-configuration")

# A shell starts what it puts in the background with Ctrl-C ignored, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _need(*tools: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices and mounts")
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout.strip()


def _make_mount(stack: ExitStack, folder: Path, kind: str, size: int) -> Path:
    """A new file system of `kind` in a file, mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    image, mount = folder / f"{kind}.fs", folder / kind
    with image.open("wb") as file:
        file.truncate(size)
    make = {
        "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
        "btrfs": ["mkfs.btrfs", "-q", "-f"],
        "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    }[kind]
    _need(make[0], "mount", "umount")
    _run(*make, str(image))
    mount.mkdir()
    try:
        _run("mount", "-o", "loop", str(image), str(mount))
    except RuntimeError as error:
        pytest.skip(f"cannot mount {kind}: {error}")
    stack.callback(_run, "umount", "-l", str(mount))
    return mount


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """`mounted(kind, size)`: a new file system of the test's own, mounted at the returned path."""
    with ExitStack() as stack:
        yield lambda kind, size: _make_mount(stack, tmp_path / f"fs-{os.urandom(3).hex()}", kind, size)


@pytest.fixture(scope="session")
def _reflink_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    mounts: dict[str, Path] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Path:
            if kind not in mounts:
                mounts[kind] = _make_mount(stack, tmp_path_factory.mktemp(kind), kind, 400 * MIB)
            return mounts[kind]

        yield get


@pytest.fixture(params=["xfs", "btrfs"])
def reflink_path(request: pytest.FixtureRequest, _reflink_mounts: Callable[[str], Path]) -> Iterator[Path]:
    """An empty folder on a file system that shares extents; the test runs once on xfs and once on btrfs."""
    folder = _reflink_mounts(request.param) / os.urandom(4).hex()
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`loop_device(size)`: a new loop device of that size, reading as zeros."""
    with ExitStack() as stack:

        def make(size: int) -> Path:
            _need("losetup")
            backing = tmp_path / f"loop-{os.urandom(3).hex()}.img"
            with backing.open("wb") as file:
                file.truncate(size)
            try:
                device = _run("losetup", "--find", "--show", str(backing))
            except RuntimeError as error:
                pytest.skip(f"no loop device: {error}")
            stack.callback(_run, "losetup", "--detach", device)
            return Path(device)

        yield make


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A host with an empty vault, chunks of 16 KiB, no encryption."""
    from helpers.site import Site

    with Site(tmp_path / "site") as made:
        yield made


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """`make_site(**options)`: another host with a vault of its own; closed at the end."""
    from helpers.site import Site

    with ExitStack() as stack:

        def make(**options: Any) -> Site:
            return stack.enter_context(Site(tmp_path / f"site-{os.urandom(3).hex()}", **options))

        yield make


@pytest.fixture
def hook() -> Iterator[Callable[[Hook | None], None]]:
    """`hook(function)` is called with the name of every failpoint reached; taken back at the end."""
    before = failpoints.set_hook(None)

    def set_hook(function: Hook | None) -> None:
        failpoints.set_hook(function)

    yield set_hook
    failpoints.set_hook(before)
