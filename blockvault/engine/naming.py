"""Finding the point that a user means: `3`, `HOST:3`, an id's prefix, `ITEM@latest`, `ITEM@-1`, `ITEM@DATE`.

Numbers are one series per vault and origin and never reused, so a bare number means this host's point; if this host
has none of that number, the only point of that number in the vault. A point that is only a snapshot has an id too:
it is derived from vault, origin and number, and the point keeps it when it is transferred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar

import blake3

from blockvault.clock import from_text
from blockvault.engine.dating import in_order
from blockvault.errors import InvalidInputError, NotFoundError
from blockvault.ids import OriginId, PointId


class Named(Protocol):
    """What a point is found by; each means what it does in `PointInfo`."""

    @property
    def number(self) -> int:
        """N."""

    @property
    def label(self) -> str:
        """`N` or `HOST:N`."""

    @property
    def id(self) -> str:
        """The point's id."""

    @property
    def item(self) -> str:
        """The item's name."""

    @property
    def taken(self) -> datetime:
        """The moment of capture."""

    @property
    def origin(self) -> str:
        """The origin of a point that another host made; empty for one of this host."""


N = TypeVar("N", bound=Named)


def point_id(vault_id: bytes, origin: OriginId, number: int) -> PointId:
    """The id of a point: the same whether it is a snapshot, in the vault, or both."""
    seed = b"blockvault point" + vault_id + bytes.fromhex(origin) + number.to_bytes(8, "little")
    return PointId(blake3.blake3(seed).hexdigest(length=16))


def resolve(ref: str, infos: Sequence[N]) -> N:
    """The point that `ref` names.

    Raises:
        NotFoundError: no such point (`point.not-found`) or item (`item.not-found`).
        InvalidInputError: it names several (`point.ambiguous`).
    """
    ref = ref.strip()
    if "@" in ref:
        item, which = ref.rsplit("@", 1)
        return _of_item(item, which, infos)
    exact = [info for info in infos if info.label == ref]
    if len(exact) == 1:
        return exact[0]
    found = [info for info in infos if re.fullmatch(r"[0-9]{1,19}", ref) and info.number == int(ref)]
    if not found and re.fullmatch(r"[0-9a-f]{4,32}", ref):
        found = [info for info in infos if info.id.startswith(ref)]
    if len(found) > 1:
        names = ", ".join(info.label for info in found[:5])
        raise InvalidInputError(
            "point.ambiguous",
            f"'{ref}' names {len(found)} points: {names}",
            do="write HOST:N, or more of the id",
        )
    if not found:
        raise _no_point(ref, infos)
    return found[0]


def _of_item(item: str, which: str, infos: Sequence[N]) -> N:
    own = in_order(
        (info for info in infos if info.item == item),
        origin=lambda info: info.origin,
        number=lambda info: info.number,
        taken=lambda info: info.taken,
    )
    if not own:
        raise NotFoundError(
            "item.not-found",
            f"there is no point of an item '{item}'",
            why="no such item, or none of its points is left",
            do="see `blockvault points`",
        )
    if which == "latest":
        return own[-1]
    if re.fullmatch(r"-[0-9]{1,19}", which):
        back = int(which[1:])
        if back >= len(own):
            raise NotFoundError(
                "point.not-found",
                f"item '{item}' has only {len(own)} points",
                do=f"see `blockvault points {item}`",
            )
        return own[-1 - back]
    moment: datetime = from_text(which)
    before = [info for info in own if info.taken <= moment]  # the last of these in order, not the latest by its date
    if not before:
        raise NotFoundError(
            "point.not-found",
            f"item '{item}' has no point from {which} or before",
            why=f"its first, point {own[0].label}, was taken at {own[0].taken:%Y-%m-%d %H:%M} UTC",
            do=f"see `blockvault points {item}`",
        )
    return before[-1]


def _no_point(ref: str, infos: Sequence[Named]) -> NotFoundError:
    if not infos:
        return NotFoundError(
            "point.not-found",
            f"there is no point {ref}",
            why="this vault has no points yet",
            do="take one with `blockvault snapshot DISK`",
        )
    newest = infos[-1]
    return NotFoundError(
        "point.not-found",
        f"there is no point {ref}",
        why=f"this vault has {len(infos)} points; the newest is {newest.label} of item '{newest.item}'",
        do="see `blockvault points`",
    )
