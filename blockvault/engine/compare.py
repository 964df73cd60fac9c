"""The diff verb: which two states are meant, and where they differ."""

from __future__ import annotations

import os

from blockvault.engine import diff
from blockvault.engine.naming import resolve
from blockvault.engine.session import Session
from blockvault.errors import InvalidInputError, NotFoundError
from blockvault.image.source import ImageSource
from blockvault.model import DiffExtent, DiffResult, PointInfo
from blockvault.monitor import Monitor


def compare(
    session: Session, infos: list[PointInfo], left: str, right: str | None, disk: str | None, monitor: Monitor
) -> DiffResult:
    """See `Vault.diff`."""
    first = resolve(left, infos)
    if first.point is None:
        raise NotFoundError(
            "point.not-in-vault", f"point {first.label} is only a snapshot", do="run `blockvault transfer` first"
        )
    if right is not None and (os.path.sep in right or os.path.exists(right)):
        return _with_image(session, first, right, disk, monitor)
    old, new = first, first
    if right is not None:
        new = resolve(right, infos)
    else:
        parent = first.point.parent
        found = [info for info in infos if info.point is not None and info.point.ref == parent]
        if not found:
            raise NotFoundError(
                "point.no-parent",
                f"point {first.label} has no parent point to compare with",
                why="it was an initial transfer, or its parent is gone",
                do=f"name two points: blockvault diff OTHER {first.label}",
            )
        old = found[0]
    if new.point is None:
        raise NotFoundError(
            "point.not-in-vault", f"point {new.label} is only a snapshot", do="run `blockvault transfer` first"
        )
    assert old.point is not None
    pairs = [(a, b) for a in old.point.disks for b in new.point.disks if a.name == b.name and disk in (None, a.name)]
    if not pairs:
        raise NotFoundError(
            "disk.not-found",
            f"points {old.label} and {new.label} have no disk in common" + (f" named '{disk}'" if disk else ""),
            do="see `blockvault point show`",
        )
    return _result(
        old.label,
        new.label,
        [
            (
                b.name,
                max(a.size, b.size),
                diff.join(diff.between_points(session.store, session.keys, session.shelf, a, b, monitor)),
            )
            for a, b in pairs
        ],
    )


def _with_image(session: Session, info: PointInfo, path: str, disk: str | None, monitor: Monitor) -> DiffResult:
    assert info.point is not None
    real = os.path.realpath(path)
    disks = [d for d in info.point.disks if disk in (None, d.name)]
    matching = [d for d in disks if d.path == real] or disks
    if len(matching) != 1:
        raise InvalidInputError(
            "diff.which-disk",
            f"point {info.label} has {len(matching)} disks that {path} could be compared with",
            why=", ".join(d.name for d in info.point.disks),
            do="name one with --disk",
        )
    with ImageSource.open(real, matching[0].chunk_size) as source:
        extents = diff.join(diff.with_image(session.store, session.keys, session.shelf, matching[0], source, monitor))
        size = max(source.size, matching[0].size)
    return _result(info.label, path, [(matching[0].name, size, extents)])


def _result(left: str, right: str, parts: list[tuple[str, int, list[tuple[int, int]]]]) -> DiffResult:
    return DiffResult(
        left=left,
        right=right,
        extents=tuple(DiffExtent(name, at, count) for name, _, extents in parts for at, count in extents),
        changed_bytes=sum(count for _, _, extents in parts for _, count in extents),
        size_bytes=sum(size for _, size, _ in parts),
        pictures={name: diff.picture(extents, size) for name, size, extents in parts},
    )
