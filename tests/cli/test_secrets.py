"""A wrong key ends every command before anything else happens, and no command ever shows a secret.

Every command of the tree that opens a vault is run, a new one too: what it must be given is made up where the table
does not say it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from helpers.children import ForkServer
from helpers.files import noise
from helpers.site import CHUNK

from blockvault.cli.app import make_app
from blockvault.cli.failures import traceback_of
from blockvault.format.paper import read_paper
from blockvault.model import Secret
from blockvault.vault import Vault

pytestmark = pytest.mark.no_bytes

RIGHT, WRONG, NEW = "SECRET-right-one", "SECRET-wrong-one", "SECRET-new-one"
KEY_BYTES = b"SECRET-in-a-key-file-of-some-size"

# Forked from a process that has all loaded: a command costs no start of Python.
RUN = """
def work(words, env, folder):
    import contextlib, io, os
    from blockvault.cli.app import run
    for name in [name for name in os.environ if name.startswith("BLOCKVAULT_")]:
        del os.environ[name]
    os.environ.update(env)
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return [code, out.getvalue(), err.getvalue()]
"""
WORDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("snapshot",): ("disk.img", "--no-keep"),
    ("restore",): ("--point", "1", "-o", "out.img"),
    ("item", "show"): ("disk",),
    ("item", "set"): ("disk", "--comment", "x"),
    ("protect",): ("disk", "--policy", "default"),
    ("policy", "create"): ("gold", "--schedule", "daily 02:00", "--keep-daily", "7"),
    ("policy", "set"): ("default", "--comment", "x"),
    ("doctor",): (),
    ("points",): (),
    ("transfer",): (),
    ("verify",): (),
    ("vault", "show"): (),
    ("vault", "key", "remove"): ("0", "--yes"),
    ("vault", "key", "rotate"): ("--slot", "0"),
    ("vault", "key", "export"): ("--yes", "-o", "paper"),
    ("vault", "key", "import"): ("wrong-paper",),
}
CODES = {("doctor",): 1}  # it says so among its findings


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def arguments(path: tuple[str, ...], command: click.Command) -> tuple[str, ...]:
    """What the command must be given: as the table says, or `1` for each argument that it asks for."""
    if path in WORDS:
        return WORDS[path]
    needed = [parameter for parameter in command.params if parameter.required]
    words = [word for one in needed for word in ((*one.opts[:1], "1") if isinstance(one, click.Option) else ("1",))]
    yes = ["--yes"] if any("--yes" in parameter.opts for parameter in command.params) else []
    return (*words, *yes)


OPENING = {
    path: arguments(path, command)
    for path, command in leaves(make_app())
    if any("--vault" in one.opts and not getattr(one, "hidden", False) for one in command.params)
    and path != ("vault", "create")
}


class Runner:
    """Runs commands in forks; `found` has the exit code and both outputs of the last."""

    def __init__(self, children: ForkServer, folder: Path) -> None:
        self.children = children
        self.folder = folder
        self.state = folder / "state"

    def run(
        self, words: list[str], env: dict[str, str], state: Path | None = None, spec: str | None = None
    ) -> tuple[int, str, str]:
        env = {"BLOCKVAULT_STATE_DIR": str(state or self.state), **env}
        answer = self.children.run(RUN, words, env, self.folder, spec=spec)["answer"]
        return answer[0], answer[1], answer[2]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A vault `safe` with one point, and a sheet with the paper key of another vault."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "disk.img").write_bytes(noise(6 * CHUNK, 1))
    (folder / "key-file").write_bytes(KEY_BYTES)
    with Vault.create("other", state_dir=str(folder / "elsewhere"), secret=Secret(passphrase=b"other")) as other:
        lines = enumerate(other.keys.export_lines(), 1)
        (folder / "wrong-paper").write_text("\n".join(f"{number} {line}" for number, line in lines))
    with ForkServer() as children:
        made = Runner(children, folder)
        right = {"BLOCKVAULT_PASSWORD": RIGHT}
        for words in (["vault", "create", "safe"], ["snapshot", "disk.img", "--vault", "safe"]):
            code, _, err = made.run(words, right)
            assert code == 0, err
        yield made


def everything(*folders: Path) -> dict[str, tuple[int, ...]]:
    """Every file and folder with what changes when it is written, replaced or touched."""
    found = {}
    for folder in folders:
        for top, folders_here, files in os.walk(folder):
            for name in (".", *folders_here, *files):
                status = os.lstat(os.path.join(top, name))
                found[os.path.join(top, name)] = (
                    status.st_ino, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ctime_ns,
                )  # fmt: skip
    return found


def test_the_commands_that_open_a_vault_are_found() -> None:
    assert len(OPENING) >= 17
    assert {("snapshot",), ("verify",), ("vault", "key", "import"), ("item", "set")} <= set(OPENING)


@pytest.mark.parametrize("path", OPENING, ids=" ".join)
def test_a_wrong_key_ends_it_before_anything_else(runner: Runner, tmp_path: Path, path: tuple[str, ...]) -> None:
    """Not a file of the vault, of LMDB or of the host's state is made, changed or touched."""
    wrong = {"BLOCKVAULT_PASSWORD": WRONG, "BLOCKVAULT_NEW_PASSWORD": NEW}
    words = [*path, *OPENING[path]]
    before = everything(runner.folder)
    code, out, err = runner.run([*words, "--vault", "safe", "-v"], wrong)
    assert "SECRET" not in out + err
    assert (code, "[key.wrong]" in err or "does not open" in out) == (CODES.get(path, 12), True), err
    assert everything(runner.folder) == before
    nowhere = tmp_path / "never-used"
    code, _, err = runner.run([*words, "--vault", f"{runner.state}/vaults/safe"], wrong, nowhere)
    assert code == CODES.get(path, 12), err
    assert everything(runner.folder) == before
    assert not nowhere.exists()
    if path != ("vault", "key", "import"):
        code, _, err = runner.run([*words, "--vault", "safe"], {"BLOCKVAULT_NEW_PASSWORD": NEW})
        assert (code, "[key.missing]" in err or path in CODES) == (CODES.get(path, 12), True), err
        assert everything(runner.folder) == before


def texts(answer: tuple[int, str, str]) -> str:
    return answer[1] + answer[2]


def test_no_command_shows_a_secret_or_leaves_one_in_a_file(runner: Runner) -> None:
    """With everything said that can be said (-v, --json), where all goes well and where it does not."""
    keyed = ["--key-file", "key-file"]
    told = texts(runner.run(["vault", "create", "keyed", *keyed], {}))
    safe = runner.state / "vaults" / "safe"
    for path, words in OPENING.items():
        command = [*path, *words, "-v"]
        env = {"BLOCKVAULT_PASSWORD_COMMAND": f"echo {RIGHT}", "BLOCKVAULT_NEW_PASSWORD": RIGHT}
        told += texts(runner.run([*command, "--vault", "safe", "--json"], env))
        told += texts(runner.run([*command, "--vault", "keyed", *keyed], {"BLOCKVAULT_NEW_PASSWORD": NEW}))
    for bad in (f"'{WRONG}", WRONG, f"/no/such/{WRONG} {WRONG}", f"sh -c 'exit 3 # {WRONG}'"):
        told += texts(runner.run(["points", "--vault", "safe", "-v"], {"BLOCKVAULT_PASSWORD_COMMAND": bad}))
    env = {"BLOCKVAULT_NEW_PASSWORD": NEW}
    told += texts(runner.run(["vault", "create", "again", *keyed], {}))
    for failure in ("key.adding:eio", "store.write:enospc"):
        code, out, err = runner.run(["vault", "key", "add", "--vault", "again", *keyed, "-v"], env, spec=failure)
        assert code in (1, 14), err
        told += out + err
    assert "[input.passphrase-command]" in told
    assert "SECRET" not in told
    for top, _, files in os.walk(runner.state):
        for name in files:
            assert b"SECRET" not in Path(top, name).read_bytes(), (top, name)
    sheet = (runner.folder / "paper").read_text()
    master = read_paper(sheet)
    for top, _, files in os.walk(runner.state):
        for name in files:
            data = Path(top, name).read_bytes()
            assert master not in data
            assert master.hex().encode() not in data
    assert list((safe / "keys").iterdir())


def test_what_holds_a_secret_does_not_print_it(runner: Runner) -> None:
    """Nor does the traceback of a fault of ours, which -v prints: it has lines of the program, not what they held."""
    secret: Any = Secret(passphrase=b"SECRET", key_file=b"SECRET", master_key=b"SECRET")
    with Vault.create("held", state_dir=str(runner.folder / "held"), secret=Secret(passphrase=b"SECRET")) as vault:
        session = vault._session
        shown = [secret, session.keys, session.folder.opened, session.folder, session, vault, vault.keys]
        assert "SECRET" not in "".join(repr(thing) + str(thing) for thing in shown)
        text = repr(session.keys) + repr(session.folder.opened)
        for key in (session.folder.opened.master, session.keys.id_key, session.keys.run_key):
            assert repr(key)[2:-1] not in text
            assert key.hex() not in text
        words = Secret(passphrase=b"SECRET")
        with pytest.raises(TypeError) as caught:
            vault.keys.add(words, label=secret, now=secret)
        trace = traceback_of(caught.value)
        assert trace is not None
        assert "Traceback" in trace
        assert "SECRET" not in trace
