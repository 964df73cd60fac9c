"""What `--help` costs, says and does not say."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from helpers.program import PROGRAM, Program

from blockvault.cli.app import ALIASES, COMMANDS, GROUPS, make_app

pytestmark = pytest.mark.no_bytes

HEAVY = ("numpy", "rich", "lmdb", "cryptography", "zstandard", "msgspec", "blockvault.vault", "blockvault._native")
CPU_SECONDS_MAX = 0.12

# Near-synonyms that the glossary rules out for what BlockVault names otherwise.
OTHER_WORDS = (
    "repository|datastore|archive|volume|drive|cluster|segment|fingerprint|checksum|blob|catalogue|dirty|hostname"
    "|recovery set|sync(hroni[sz]e)?|upload|task|plan file|lifecycle|ttl|manual|ad hoc|forget|gc|vacuum|garbage"
    "|trash|recycle|pin|scrub|fsck|recover|rollback|quiesced?|mirror|backups|backup set"
)


def leaves(
    group: click.Group | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    group = group or make_app()
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


ALL_LEAVES = list(leaves())


def test_help_costs_less_than_120_ms_of_cpu(program: Program) -> None:
    cost = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        program.run("--help", code=0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cost.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(cost) < CPU_SECONDS_MAX


@pytest.mark.parametrize("words", [["--help"], ["vault", "--help"], ["snapshot", "--help"], ["nothing"]])
def test_help_imports_nothing_heavy(program: Program, words: list[str]) -> None:
    script = (
        "import sys\nfrom blockvault.cli import main\n"
        f"main({words!r})\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=program.environment())
    assert done.stderr.splitlines()[-1] == "loaded []"


def test_importing_the_library_loads_nothing(program: Program) -> None:
    script = (
        "import sys, blockvault\n"
        "before = [n for n in sys.modules if n.startswith('blockvault.')]\n"
        "from blockvault import Vault, Monitor, Secret, BlockVaultError, Consistency, Tier\n"
        "missing = sorted(set(blockvault.__all__) - set(dir(blockvault)))\n"
        "print(before, Vault.__name__, blockvault.__version__ != '', missing)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=program.environment())
    assert done.stdout.strip() == "[] Vault True []", done.stderr


def test_unknown_name_in_the_library_is_an_attribute_error() -> None:
    import blockvault

    with pytest.raises(AttributeError):
        _ = blockvault.Valut


def test_every_line_of_the_tree_is_the_first_line_of_its_command() -> None:
    lines = {(name,): line for name, (module, line) in COMMANDS.items() if module}
    lines |= {
        (*group.split(), name): line
        for group, table in GROUPS.items()
        for name, (module, line) in table.items()
        if module
    }
    assert lines == {path: (command.help or "").split("\n")[0] for path, command in ALL_LEAVES}


@pytest.mark.parametrize(("path", "command"), ALL_LEAVES, ids=[" ".join(path) for path, _ in ALL_LEAVES])
def test_every_command_has_the_common_options_and_the_glossarys_words(
    path: tuple[str, ...], command: click.Command
) -> None:
    options = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--vault", "--quiet", "-q", "--verbose", "-v", "--color", "--key-file", "--config"} <= options
    context = click.Context(command, info_name=" ".join(path))
    found = re.findall(rf"\b({OTHER_WORDS})\b", command.get_help(context), re.IGNORECASE)
    assert found == []


def test_the_tree_holds_what_is_built_and_nothing_else(program: Program) -> None:
    shown = program.run("--help", code=0).out
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", shown, re.MULTILINE)
    for later in (
        "files",
        "export",
        "mount",
        "portal",
    ):
        assert not re.search(rf"^  {later}\b", shown, re.MULTILINE)
    for path, _ in ALL_LEAVES:
        text = program.run(*path, "--help", code=0).out
        for later in ("--restore-test", "--history", *(() if path[0] in ("report", "forecast") else ("--format",))):
            assert later not in text


def test_aliases_are_the_same_commands() -> None:
    app = make_app()
    context = click.Context(app)
    for alias, name in ALIASES.items():
        assert app.get_command(context, alias) is app.get_command(context, name)


def test_no_arguments_show_the_help_and_are_a_usage_error(program: Program) -> None:
    ended = program.run(code=2)
    assert ended.out == ""
    assert "snapshot" in ended.err


def test_a_near_miss_is_told(program: Program) -> None:
    ended = program.run("snapshots", code=2)
    assert "did you mean 'snapshot'?" in ended.err
    assert ended.kind == "input.usage"


def test_version_flag(program: Program) -> None:
    assert program.run("--version", code=0).out.startswith("blockvault ")


def test_the_installed_command_is_the_module() -> None:
    from importlib.metadata import PackageNotFoundError, entry_points, version

    try:
        version("blockvault")
    except PackageNotFoundError:
        pytest.skip("run from a source folder that was never installed")
    [script] = entry_points(group="console_scripts", name="blockvault")
    assert script.value == "blockvault.cli:main"
    assert PROGRAM[1:] == ("-m", "blockvault")
