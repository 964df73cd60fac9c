"""What the core is built from may be given on under the project's own licence."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
}


def is_permissive(expression: str) -> bool:
    """Whether every AND-part has at least one OR-part that is permissive; the crates' expressions nest no deeper."""
    parts = expression.replace("/", " OR ").replace("(", "").replace(")", "").split(" AND ")
    return all(any(choice.strip() in PERMISSIVE for choice in part.split(" OR ")) for part in parts)


def test_the_rule_itself() -> None:
    assert is_permissive("MIT OR GPL-3.0")
    assert is_permissive("(MIT OR Apache-2.0) AND Unicode-3.0")
    assert not is_permissive("MIT AND GPL-3.0")
    assert not is_permissive("AGPL-3.0-only")


def test_no_crate_has_a_licence_that_binds_the_whole() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    result = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"],
        capture_output=True,
        text=True,
        cwd=NATIVE,
        check=False,
    )
    if result.returncode != 0:
        pytest.skip(f"cargo cannot list the crates: {result.stderr.strip().splitlines()[-1]}")
    packages = json.loads(result.stdout)["packages"]
    assert len(packages) > 20
    assert [p["name"] for p in packages if not is_permissive(p["license"] or "")] == []
