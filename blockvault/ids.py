"""Typed names: the same bytes, not interchangeable.

A name that others may guess or meet by accident is 128 bits from the system's random source: with 2^40 names
made, the chance that any two are equal is below 2^-49. Names of packs and points begin with 48 bits of
milliseconds since 1970, so that a listing is in order of time; that leaves 80 random bits per millisecond.
"""

from __future__ import annotations

import os
import re
from typing import NewType

from blockvault.errors import InvalidInputError

VaultId = NewType("VaultId", str)  # 32 hex
OriginId = NewType("OriginId", str)  # 32 hex; a writing host of a vault
ItemId = NewType("ItemId", str)  # 32 hex
PointId = NewType("PointId", str)  # 32 hex, time-ordered
PackName = NewType("PackName", bytes)  # 16 bytes, time-ordered
LayerName = NewType("LayerName", bytes)  # 16 bytes
WriteId = NewType("WriteId", bytes)  # 16 bytes; tells one's own create-only write from another's

VAULT_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9-]{1,49}\Z")  # Azure's rule: 2-50, a letter first
ITEM_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9-]{0,79}\Z")
DISK_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")


def random_name() -> bytes:
    """16 bytes from the system's random source."""
    return os.urandom(16)


def ordered_name(unix_ms: int) -> bytes:
    """48 bits of `unix_ms` followed by 80 random bits."""
    return (unix_ms & 0xFFFF_FFFF_FFFF).to_bytes(6, "big") + os.urandom(10)


def check_vault_name(name: str) -> str:
    """Return `name`, or raise `InvalidInputError` (`vault.bad-name`)."""
    if not VAULT_NAME.match(name):
        raise InvalidInputError(
            "vault.bad-name",
            f"'{name}' cannot name a vault",
            why="a vault's name has 2 to 50 letters, digits and hyphens and begins with a letter",
            do="choose another name, for example 'default' or 'site-1'",
        )
    return name


def check_item_name(name: str) -> str:
    """Return `name`, or raise `InvalidInputError` (`item.bad-name`)."""
    if not ITEM_NAME.match(name):
        raise InvalidInputError(
            "item.bad-name",
            f"'{name}' cannot name an item",
            why="an item's name has 1 to 80 letters, digits and hyphens and begins with a letter",
            do="choose another with --name",
        )
    return name


def check_policy_name(name: str) -> str:
    """Return `name`, or raise `InvalidInputError` (`policy.bad-name`)."""
    if not VAULT_NAME.match(name):
        raise InvalidInputError(
            "policy.bad-name",
            f"'{name}' cannot name a policy",
            why="a policy's name has 2 to 50 letters, digits and hyphens and begins with a letter",
            do="choose another name, for example 'nightly' or 'gold-1'",
        )
    return name


def name_from_stem(stem: str, pattern: re.Pattern[str] = ITEM_NAME, fallback: str = "disk") -> str:
    """The nearest valid item name for a file's stem: what the rule does not allow becomes `-`."""
    allowed = r"[^A-Za-z0-9-]" if pattern is ITEM_NAME else r"[^A-Za-z0-9._-]"
    name = re.sub(allowed, "-", stem).strip("-._")[:80].rstrip("-")
    if not name:
        return fallback
    if not pattern.match(name):
        name = f"{fallback}-{name}"[:80]
    return name
