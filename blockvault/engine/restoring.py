"""The restore verb: choose the tier, name the targets, write, check, put in place.

A target appears under its name only when it is whole and checked; until then it has no name, or a hidden one that is
removed when the restore ends early. Targets of a point with several disks are put in place together at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blockvault.engine.instant import check_and_mend
from blockvault.engine.restore import DiskRestore, data_bytes
from blockvault.engine.spare import SpareCopies
from blockvault.errors import BlockVaultError, DeviceError, InvalidInputError, NotFoundError
from blockvault.image.target import Target, open_target
from blockvault.model import PointDisk, PointInfo, RestoreResult, SnapshotRecord, Tier, VaultKeys
from blockvault.monitor import Monitor
from blockvault.snapshots.tier import SnapshotTier
from blockvault.store.local import LocalStore, device_error
from blockvault.store.packs import PackShelf
from blockvault.store.quarantine import Quarantine


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What is to be restored, and whereto."""

    info: PointInfo
    record: SnapshotRecord | None
    disk: str | None
    output: str | None
    source: str
    force: bool
    verify: bool
    dry_run: bool
    stream: int | None


@dataclass(frozen=True, slots=True)
class _Disk:
    name: str
    size: int
    path: str | None  # None: the stream


@contextmanager
def _naming(target: Target) -> Iterator[None]:
    """While a target is written it has no name, and the system calls it a deleted file: errors name what it becomes."""
    try:
        yield
    except DeviceError as error:
        shown = os.readlink(f"/proc/self/fd/{target.fd}")
        error.message = error.message.replace(shown, target.path)
        if error.filename == shown:
            error.filename = target.path
        raise


class Restorer:
    """Carries restores out for one vault."""

    def __init__(
        self,
        store: LocalStore,
        keys: VaultKeys,
        shelf: PackShelf,
        tier: SnapshotTier,
        digests_folder: str,
        quarantine: Quarantine,
        monitor: Monitor,
    ) -> None:
        self._quarantine = quarantine
        self._spare = SpareCopies(tier, keys, digests_folder, live={})
        self._store = store
        self._keys = keys
        self._shelf = shelf
        self._tier = tier
        self._digests_folder = digests_folder
        self._monitor = monitor

    def run(self, request: RestoreRequest) -> RestoreResult:
        """Restore; see `Vault.restore` for what it raises."""
        with self._spare:
            return self._run(request)

    def _run(self, request: RestoreRequest) -> RestoreResult:
        begun = time.monotonic()
        source = self._choose(request)
        disks = self._disks(request)
        size = sum(disk.size for disk in disks)
        paths = tuple(disk.path for disk in disks if disk.path is not None)
        if request.dry_run:
            return self._result(request, source, paths, size, 0, 0, begun, verified=False)
        if disks[0].path is None:
            assert request.stream is not None
            written = self._to_stream(request, source, disks[0])
            return self._result(request, source, (), size, written, 0, begun, verified=source is Tier.VAULT)
        made_folder = self._make_folder(request, disks)
        targets: list[Target] = []
        written = mended = 0
        try:
            self._monitor.phase("Restore", self._work_bytes(request, source, disks))
            for disk in disks:
                assert disk.path is not None
                target = open_target(disk.path, disk.size, force=request.force)
                targets.append(target)
                with _naming(target):
                    if source is Tier.SNAPSHOT:
                        count, healed = self._from_snapshot(request, disk, target)
                        mended += healed
                    else:
                        count = self._from_vault(request, disk, target)
                written += count
                self._monitor.check()
            for target in targets:
                target.commit()
        except BaseException as error:
            for target in targets:
                target.abort()
            if made_folder is not None:
                try:
                    os.rmdir(made_folder)
                except OSError:
                    pass  # a disk of it is already in place
            if isinstance(error, OSError) and not isinstance(error, BlockVaultError):
                raise device_error(error, f"restoring point {request.info.label}") from error
            raise
        if mended:
            self._monitor.warn(
                "snapshot.mended",
                f"{mended} chunks of the snapshot were damaged and were taken from the vault",
            )
        checked = request.verify and request.info.point is not None and not self._monitor.counters["chunks_unchecked"]
        verified = source is Tier.VAULT or checked
        return self._result(request, source, paths, size, written, mended, begun, verified=verified)

    def _choose(self, request: RestoreRequest) -> Tier:
        info = request.info
        in_vault, in_tier = info.point is not None, request.record is not None
        if request.source not in ("auto", "snapshot", "vault"):
            raise InvalidInputError(
                "restore.from",
                f"there is no tier '{request.source}'",
                do="use --from auto, snapshot or vault",
            )
        if request.source == "snapshot" and not in_tier:
            raise NotFoundError(
                "point.no-snapshot",
                f"point {info.label} has no snapshot on this host",
                why="its snapshot days are over, or it was taken without one",
                do="leave out --from snapshot: the vault has it",
            )
        if request.source == "vault" and not in_vault:
            raise NotFoundError(
                "point.not-in-vault",
                f"point {info.label} is not in the vault yet",
                why="it was captured but not transferred",
                do="restore it from its snapshot, or run `blockvault transfer` first",
            )
        return Tier.SNAPSHOT if in_tier and request.source != "vault" else Tier.VAULT

    def _disks(self, request: RestoreRequest) -> list[_Disk]:
        info = request.info
        if info.point is not None:
            known = [(disk.name, disk.size) for disk in info.point.disks]
        else:
            assert request.record is not None
            known = [(disk.name, disk.size) for disk in request.record.disks]
        chosen = [disk for disk in known if request.disk in (None, disk[0])]
        if not chosen:
            raise NotFoundError(
                "disk.not-found",
                f"point {info.label} has no disk '{request.disk}'",
                why="its disks: " + ", ".join(name for name, _ in known),
                do="name one of them with --disk",
            )
        if request.output == "-":
            if len(chosen) != 1:
                raise InvalidInputError(
                    "restore.several-disks",
                    f"point {info.label} has {len(chosen)} disks and standard output takes one",
                    do="name one with --disk",
                )
            return [_Disk(*chosen[0], None)]
        stem = f"{info.item}-point-{info.number}"
        if len(known) == 1:
            return [_Disk(*chosen[0], self._path_of_one(request.output, f"{stem}.img"))]
        if len(chosen) == 1 and request.disk is not None:
            return [_Disk(*chosen[0], self._path_of_one(request.output, f"{stem}-{chosen[0][0]}.img"))]
        folder = os.path.abspath(request.output or stem)
        return [_Disk(name, size, os.path.join(folder, f"{name}.img")) for name, size in chosen]

    @staticmethod
    def _path_of_one(output: str | None, name: str) -> str:
        if output is None:
            return os.path.abspath(name)
        if os.path.isdir(output) or output.endswith("/"):
            return os.path.join(os.path.abspath(output), name)
        return os.path.abspath(output)

    @staticmethod
    def _make_folder(request: RestoreRequest, disks: list[_Disk]) -> str | None:
        """The folder for several disks, made if it is not there; returned if it was made."""
        if len(disks) < 2:
            return None
        assert disks[0].path is not None
        folder = os.path.dirname(disks[0].path)
        del request
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return None
        except OSError as error:
            raise InvalidInputError(
                "target.no-folder",
                f"the folder {folder} cannot be made",
                why=error.strerror,
                do="name another place with -o",
            ) from None
        return folder

    def _work_bytes(self, request: RestoreRequest, source: Tier, disks: list[_Disk]) -> int:
        if source is Tier.SNAPSHOT or request.info.point is None:
            return sum(disk.size for disk in disks)
        total = 0
        for disk in disks:
            restore = self._disk_restore(request, disk.name)
            try:
                total += data_bytes(restore.manifest)
            finally:
                restore.close()
        return total

    def _disk_restore(self, request: RestoreRequest, name: str) -> DiskRestore:
        assert request.info.point is not None
        disk = next(disk for disk in request.info.point.disks if disk.name == name)
        item_id = request.info.point.item_id

        def spare(disk: PointDisk, chunk: int, block_id: bytes) -> bytes | None:
            found = self._spare.find(item_id, disk.name, disk.chunk_size, chunk, block_id)
            return found[0] if found is not None else None

        return DiskRestore(
            self._store,
            self._keys,
            self._shelf,
            disk,
            self._monitor,
            quarantine=self._quarantine,
            spare=spare,
        )

    def _from_vault(self, request: RestoreRequest, disk: _Disk, target: Target) -> int:
        restore = self._disk_restore(request, disk.name)
        try:
            target.reserve(data_bytes(restore.manifest))
            return restore.to_target(target.fd, fresh=target.fresh, direct_fd=target.direct_fd)
        finally:
            restore.close()

    def _from_snapshot(self, request: RestoreRequest, disk: _Disk, target: Target) -> tuple[int, int]:
        assert request.record is not None
        written = self._tier.restore_disk(
            request.record, disk.name, target.fd, monitor=self._monitor, direct_fd=target.direct_fd
        )
        if not request.verify or request.info.point is None:
            return written, 0
        folder = os.path.join(self._digests_folder, request.record.item_id)
        reader = self._tier.open_disk(request.record, disk.name, digests_dir=folder)
        restore = self._disk_restore(request, disk.name)
        try:
            self._monitor.phase("Check", disk.size)
            return written, check_and_mend(reader, restore, target.fd, of_the_point=True)
        finally:
            restore.close()
            reader.close()

    def _to_stream(self, request: RestoreRequest, source: Tier, disk: _Disk) -> int:
        """A stream cannot be taken back, so it comes from the vault: every block is checked first."""
        assert request.stream is not None
        if request.info.point is None:
            raise NotFoundError(
                "point.not-in-vault",
                f"point {request.info.label} is only a snapshot",
                why="a stream is written from the vault, where every block can be checked first",
                do="run `blockvault transfer` first, or restore to a file",
            )
        del source
        restore = self._disk_restore(request, disk.name)
        try:
            self._monitor.phase("Restore", data_bytes(restore.manifest))
            return restore.to_stream(request.stream)
        finally:
            restore.close()

    def _result(
        self,
        request: RestoreRequest,
        source: Tier,
        paths: tuple[str, ...],
        size: int,
        written: int,
        mended: int,
        begun: float,
        *,
        verified: bool,
    ) -> RestoreResult:
        spared = int(self._monitor.counters["chunks_from_spare"])
        if spared:
            self._monitor.warn(
                "vault.block-damaged",
                f"{spared} chunks have damaged blocks in the vault and were taken from a snapshot, checked by "
                "identity: run `blockvault vault repair`",
            )
        warnings = tuple(warning.message for warning in self._monitor.warnings)
        return RestoreResult(
            item=request.info.item,
            number=request.info.number,
            label=request.info.label,
            source=source,
            paths=paths,
            size_bytes=size,
            written_bytes=written,
            verified=verified,
            unchecked=request.info.point is None,
            healed_chunks=mended,
            seconds=time.monotonic() - begun,
            job_state="completed-with-warning" if warnings else "completed",
            dry_run=request.dry_run,
            warnings=warnings,
        )
