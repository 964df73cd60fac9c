"""The example scripts of `docs/consistency.md` do what they say, held against stand-ins for the databases' clients."""

from __future__ import annotations

import re
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "consistency.md"
_MYSQL = """#!/bin/sh
while read -r line; do
    echo "$line" >> {log}
    case "$line" in *locked*) [ -e {refuse} ] && exit 1; echo locked ;; esac
done
echo released >> {log}
"""

Run = Callable[[str, str], "subprocess.CompletedProcess[str]"]


def example(title: str) -> str:
    """The script under a heading."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"### {title}\n")[1].split("\n#")[0]
    return textwrap.dedent(re.search(r"(?m)(^    .*\n|^\n)+\Z", section)[0]).lstrip("\n")  # type: ignore[index]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(title, phase)`: the example, with clients that write to `log`; `/run` is a folder of the test's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "log"
    (tools / "mysql").write_text(_MYSQL.format(log=log, refuse=tmp_path / "refuse"))
    (tools / "psql").write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def made(title: str, phase: str) -> subprocess.CompletedProcess[str]:
        text = example(title)
        assert text.startswith("#!/bin/sh -eu\n")
        script = tmp_path / "script"
        script.write_text(text.replace("/run/", f"{tmp_path}/"))
        script.chmod(0o755)
        environment = {"PATH": f"{tools}:/usr/bin:/bin", "BLOCKVAULT_ITEM": "db", "BLOCKVAULT_RESULT": "completed"}
        return subprocess.run([str(script), phase], env=environment, stdout=subprocess.PIPE, text=True, timeout=60)

    return made


def test_postgresql(run: Run, tmp_path: Path) -> None:
    assert run("PostgreSQL", "pre").returncode == 0
    assert "CHECKPOINT" in (tmp_path / "log").read_text()
    assert run("PostgreSQL", "post").stdout == "captured: completed\n"


def test_mysql_holds_its_lock_from_pre_to_post(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run("MySQL, MariaDB", "pre").returncode == 0
    assert log.read_text() == 'FLUSH TABLES WITH READ LOCK; SELECT "locked";\n'
    assert run("MySQL, MariaDB", "post").returncode == 0
    for _ in range(500):
        if "released" in log.read_text():
            break
        time.sleep(0.01)
    assert log.read_text().endswith("released\n")
    assert not (tmp_path / "blockvault-mysql-db").exists()
    assert run("MySQL, MariaDB", "post").returncode == 0  # nothing is left to be ended


def test_mysql_that_cannot_be_locked_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    assert run("MySQL, MariaDB", "pre").returncode != 0
    assert run("MySQL, MariaDB", "post").returncode == 0
    assert not (tmp_path / "blockvault-mysql-db").exists()
