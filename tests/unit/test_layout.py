"""The rules of the house that no linter knows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "blockvault").rglob("*.py"))


def test_only_one_module_imports_the_compiled_core() -> None:
    importers = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(r"^\s*(from blockvault import .*_native|from blockvault\._native|import blockvault\._native)",
                     path.read_text(), re.MULTILINE)
    ]  # fmt: skip
    assert importers == ["blockvault/kernel/native.py"]


def test_only_the_store_imports_lmdb() -> None:
    importers = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(r"^\s*(import lmdb|from lmdb)", path.read_text(), re.MULTILINE)
    ]
    assert [name for name in importers if not name.startswith("blockvault/cli/")] == [
        "blockvault/store/environment.py",
        "blockvault/store/index.py",
    ]


def test_every_module_opens_with_its_purpose() -> None:
    silent = [path.name for path in SOURCES if not re.match(r'("""|r""")\S', path.read_text())]
    assert silent == []


def test_one_version_for_all() -> None:
    cargo = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", cargo["workspace"]["package"]["version"])


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of somebody's machine, no note left open."""
    found = []
    for path in [*SOURCES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "native").glob("*/src/*.rs")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"\bTODO\b|\bFIXME\b|NotImplementedError|todo!\(|unimplemented!\(|/home/\w+/", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []
