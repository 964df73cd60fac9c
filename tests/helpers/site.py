"""A host with one vault, and beside it a plain copy of every point: the oracle that restores are held against."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Self

from blockvault.errors import BlockVaultError
from blockvault.model import Secret, SnapshotResult
from blockvault.monitor import Monitor
from blockvault.vault import Vault
from helpers.files import first_difference, keep_copy, real_image

CHUNK = 16_384
KEY_FILE = Secret(key_file=bytes(range(32)))


class Site:
    """`take` makes a point and remembers what it must restore to; `check` restores one and compares."""

    def __init__(
        self,
        root: Path,
        *,
        chunk_size: int = CHUNK,
        secret: Secret | None = None,
        keep: bool = False,
        soft_delete_days: int = 14,
    ) -> None:
        self.root = root
        self.secret = secret
        self.keep = keep
        self.state = root / "state"
        self.copies: dict[str, dict[str, Path]] = {}  # by label of the point, then by disk
        self.monitor = Monitor()
        self._number = 0
        root.mkdir(parents=True, exist_ok=True)
        self._vault: Vault | None = Vault.create(
            state_dir=str(self.state), chunk_size=chunk_size, secret=secret, soft_delete_days=soft_delete_days
        )

    # --- the vault ---

    @property
    def vault(self) -> Vault:
        """The vault, opened if it is not."""
        if self._vault is None:
            self._vault = Vault.open(state_dir=str(self.state), secret=self.secret)
        return self._vault

    @property
    def folder(self) -> Path:
        """The vault's folder."""
        return self.state / "vaults" / "default"

    @property
    def host(self) -> Path:
        """The host's state for the vault."""
        (folder,) = (self.state / "hosts").iterdir()
        return folder

    def close(self) -> None:
        if self._vault is not None:
            self._vault.close()
            self._vault = None

    def reopen(self) -> Vault:
        self.close()
        return self.vault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lose_index(self) -> None:
        """The LMDB store is gone; the vault is opened again."""
        self.close()
        for path in (self.folder / "lmdb").iterdir():
            path.unlink()
        (self.folder / "lmdb").rmdir()

    def lose_digests(self) -> None:
        for top, _, names in os.walk(self.host / "digests"):
            for name in names:
                os.unlink(os.path.join(top, name))

    def lose_host(self) -> None:
        """The host's state is gone: its origin, numbers, digest states and snapshots' records; opened again."""
        self.close()
        shutil.rmtree(self.host)

    # --- images and points ---

    def image(self, name: str = "disk", size: int = 2 << 20, seed: int = 1) -> Path:
        """A new disk image of real data."""
        return real_image(self.root / f"{name}.img", size, seed)

    def take(self, *images: Path | str, **options: Any) -> SnapshotResult:
        """Take a point; its counters are in `monitor` afterwards."""
        self.monitor = Monitor()
        options.setdefault("keep", self.keep)
        targets = [str(image) for image in images]
        result = self.vault.snapshot(targets, monitor=self.monitor, **options)
        self.remember(str(result.number))
        return result

    def remember(self, label: str) -> None:
        """Note that the point of that label must restore to what its images hold now."""
        item = self.vault.item(self.vault.point(label).item)
        self._number += 1
        self.copies[label] = {
            disk.name: keep_copy(Path(disk.path), self.root / f"copy-{self._number}-{disk.name}") for disk in item.disks
        }

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.monitor.counters)

    def restore(self, label: str, *, source: str = "vault", disk: str | None = None) -> Path:
        """Restore a point with one disk, or one disk of a point, to a new file; raises as the vault does."""
        self._number += 1
        target = self.root / f"restored-{self._number}.img"
        self.vault.restore(label, output=str(target), source=source, disk=disk)
        return target

    def check(self, label: str | int, *, source: str = "vault") -> None:
        """The point restores byte for byte."""
        label = str(label)
        copies = self.copies[label]
        for disk, copy in copies.items():
            target = self.restore(label, source=source, disk=disk if len(copies) > 1 else None)
            at = first_difference(target, copy)
            target.unlink()
            assert at is None, f"point {label}, disk {disk}: wrong from byte {at} on"

    def check_all(self) -> None:
        """Every point restores byte for byte, and no other is listed."""
        assert {info.label for info in self.vault.points()} == set(self.copies)
        for label in self.copies:
            self.check(label)

    def outcome(self, label: str | int, *, source: str = "vault") -> BlockVaultError | None:
        """None if the point restores byte for byte, else the error; wrong bytes fail the test."""
        try:
            self.check(label, source=source)
        except BlockVaultError as error:
            return error
        return None

    def sound(self) -> None:
        """`verify` finds nothing, and every point restores."""
        report = self.vault.verify()
        assert report.damage == ()
        self.check_all()

    # --- objects ---

    def objects(self, prefix: str) -> list[Path]:
        """Files under a folder of the vault, in order of name."""
        top = self.folder / prefix
        return sorted(path for path in top.rglob("*") if path.is_file()) if top.is_dir() else [top] * top.is_file()
