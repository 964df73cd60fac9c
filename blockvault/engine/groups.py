"""Groups: items that are captured at one instant. A group is a name that its items carry, and nothing besides."""

from __future__ import annotations

from dataclasses import replace

from blockvault.engine.items import Items
from blockvault.engine.session import Session
from blockvault.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from blockvault.ids import check_item_name
from blockvault.model import Item


class Groups:
    """The groups of one vault."""

    def __init__(self, session: Session, items: Items) -> None:
        self._session = session
        self._items = items

    def all(self) -> dict[str, tuple[Item, ...]]:
        """Every group's items, by name."""
        found: dict[str, list[Item]] = {}
        for item in self._items.all():
            if item.group:
                found.setdefault(item.group, []).append(item)
        return {name: tuple(found[name]) for name in sorted(found)}

    def get(self, name: str) -> tuple[Item, ...]:
        """The items of a group. Raises `NotFoundError` (`group.not-found`)."""
        groups = self.all()
        if name not in groups:
            known = ", ".join(groups) or "none yet"
            raise NotFoundError(
                "group.not-found",
                f"the vault '{self._session.name}' has no group '{name}'",
                why=f"its groups: {known}",
                do=f"blockvault group create {name} ITEM...",
            )
        return groups[name]

    def create(self, name: str, items: list[str]) -> tuple[Item, ...]:
        """Make a group of items that are in none. Raises `AlreadyExistsError` (`group.exists`)."""
        if name in self.all():
            raise AlreadyExistsError(
                "group.exists", f"there is already a group '{name}'", do=f"blockvault group set {name} ITEM..."
            )
        return self._make(name, items)

    def set(self, name: str, items: list[str]) -> tuple[Item, ...]:
        """Have a group hold exactly these items."""
        self.get(name)
        return self._make(name, items)

    def remove(self, name: str) -> tuple[Item, ...]:
        """Take all items out of a group: there is none any more."""
        members = self.get(name)
        for item in members:
            self._items.change(item.name, lambda item: replace(item, group="") if item.group == name else item)
        return tuple(self._items.get(item.name) for item in members)

    def _make(self, name: str, items: list[str]) -> tuple[Item, ...]:
        check_item_name(name)
        if not items:
            raise InvalidInputError(
                "group.empty", "a group has at least one item", do=f"blockvault group remove {name} ends it"
            )
        wanted = self._items.several(items)
        for item in wanted:
            if item.group not in ("", name):
                raise InvalidInputError(
                    "group.other",
                    f"item '{item.name}' is in group '{item.group}'",
                    why="an item is in one group at most",
                    do=f"blockvault item set {item.name} --group ''",
                )
        for item in self.all().get(name, ()):
            if item.name not in {each.name for each in wanted}:
                self._items.change(item.name, lambda item: replace(item, group=""))
        for item in wanted:
            self._items.change(item.name, lambda item: replace(item, group=name))
        return tuple(self._items.get(item.name) for item in wanted)
