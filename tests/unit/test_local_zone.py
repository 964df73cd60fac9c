"""The name of this machine's zone: from the environment, from the system, or UTC."""

from __future__ import annotations

import os

import pytest

from blockvault.clock import local_zone_name
from blockvault.engine.policies import machine_zone


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (":Pacific/Apia", "Pacific/Apia"),
        ("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("America/Argentina/Ushuaia", "America/Argentina/Ushuaia"),
        ("UTC", "UTC"),
        ("Etc/UTC", "UTC"),
        ("EST5EDT", "UTC"),  # no place, and so no rule of one
        ("<+03>-3", "UTC"),
    ],
)
def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, given: str, name: str) -> None:
    monkeypatch.setenv("TZ", given)
    assert local_zone_name() == name
    assert machine_zone() == name


@pytest.mark.parametrize("given", ["Nowhere/Land", "../../etc/passwd", "Europe/", "right/Europe/Berlin"])
def test_a_zone_that_is_none_is_utc(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TZ", given)
    assert machine_zone() == "UTC"


def test_without_one_it_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    link = os.path.realpath("/etc/localtime")
    if "/zoneinfo/" in link:
        wanted = link.partition("/zoneinfo/")[2]
        assert local_zone_name() == (wanted if "/" in wanted and not wanted.startswith("Etc/U") else "UTC")
    else:
        assert local_zone_name()
    assert machine_zone()
