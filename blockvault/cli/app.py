"""The tree of commands. A leaf's module is imported only when that command is used, so `--help` stays fast.

The one-line helps stand here for that reason; each command's own docstring begins with the same line (a test
compares them).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

PROGRAM = "blockvault"

COMMANDS: dict[str, tuple[str, str]] = {
    "snapshot": ("snapshot", "Take a recovery point now."),
    "restore": ("restore", "Write a recovery point's disks to files or a device."),
    "points": ("points", "List recovery points."),
    "point": ("", "Look at one recovery point, hold it, delete it."),
    "transfer": ("transfer", "Move snapshots that still wait into the vault."),
    "diff": ("diff", "Show where two points differ, or a point and a disk image."),
    "verify": ("verify", "Check every stored byte against its identity."),
    "prune": ("prune", "Expire points by rules and free space."),
    "item": ("", "Look at items and change them."),
    "group": ("", "Have items captured at one instant."),
    "hook": ("", "Look at the scripts around a capture and try them."),
    "protect": ("protect", "Put items under a policy."),
    "unprotect": ("unprotect", "Stop the protection of items."),
    "resume": ("resume", "Go on protecting an item."),
    "policy": ("", "Say when points of items are taken and how long they are kept."),
    "job": ("", "See what runs, what waits and what became of the rest."),
    "daemon": ("daemon", "Take the scheduled points, by itself, until it is stopped."),
    "service": ("", "Have systemd run the daemon."),
    "alert": ("", "See what is wrong, and say that it is known."),
    "notify": ("", "Have people told."),
    "audit": ("", "See who deleted or changed what."),
    "vault": ("", "Make vaults and look at them."),
    "usage": ("usage", "Show where the space goes."),
    "report": (
        "",
        "Show whether items are inside their RPO, what was made of the schedule, and the room that is left.",
    ),
    "forecast": ("forecast", "Show what policies will add to vaults and free in the coming days."),
    "metrics": ("metrics", "Print metrics as Prometheus reads them."),
    "config": ("", "Look at the configuration and check it."),
    "demo": ("demo", "Try everything on a small disk image made of this machine's files."),
    "bench": ("bench", "Measure this machine."),
    "doctor": ("doctor", "Check this machine and say what to mend."),
    "completion": ("completion", "Print the completion script of a shell."),
    "version": ("version", "Print the versions of the program and its parts."),
}
ALIASES = {"backup": "snapshot", "backup-now": "snapshot", "ls": "points"}
# A group's table by the words that lead to it; an entry without a module is a group of its own below.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "point": {
        "show": ("point_show", "Show all that is known of a point."),
        "hold": ("point_hold", "Keep a point whatever the rules say."),
        "unhold": ("point_unhold", "Lift a hold."),
        "delete": ("point_delete", "Delete a point."),
        "undelete": ("point_undelete", "Bring a deleted point back."),
    },
    "item": {
        "list": ("item_list", "List items."),
        "show": ("item_show", "Show an item and its disks."),
        "add": ("item_add", "Register an item with its disks."),
        "set": ("item_set", "Change an item."),
        "remove": ("item_remove", "Remove an item that has no points."),
        "discover": ("item_discover", "Find disk images and virtual machines that could be protected."),
    },
    "group": {
        "list": ("group_list", "List groups and their items."),
        "create": ("group_create", "Make a group of items."),
        "set": ("group_set", "Change which items a group has."),
        "remove": ("group_remove", "End a group; its items stay."),
    },
    "hook": {
        "list": ("hook_list", "List the scripts of an item in their order."),
        "test": ("hook_test", "Run the scripts of an item without a capture."),
    },
    "job": {
        "list": ("job_list", "List jobs, the newest first."),
        "show": ("job_show", "Show a job, its phases and its figures."),
        "watch": ("job_watch", "Follow a job until it has ended, or all that run, until Ctrl-C."),
        "wait": ("job_wait", "Wait until a job has ended."),
        "cancel": ("job_cancel", "Cancel a job that waits or runs."),
        "logs": ("job_logs", "Print the log of a job."),
    },
    "report": {
        "rpo": ("report_rpo", "Show how old the newest point of each item is, against what its policy allows."),
        "sla": ("report_sla", "Show which scheduled points were made: on time, late, missed, failed."),
        "capacity": ("report_capacity", "Show what vaults hold, how fast they grow and when their disks are full."),
    },
    "service": {
        "install": ("service_install", "Write the units that run the daemon, or a timer."),
        "uninstall": ("service_uninstall", "Remove the units."),
        "status": ("service_status", "Tell whether the daemon runs and what it does."),
    },
    "alert": {
        "list": ("alert_list", "List alerts: what is wrong, and since when."),
        "ack": ("alert_ack", "Say that an alert is known."),
    },
    "notify": {
        "list": ("notify_list", "List the channels through which people are told."),
        "add": ("notify_add", "Add a channel through which people are told."),
        "remove": ("notify_remove", "Remove a channel that `notify add` made."),
        "test": ("notify_test", "Send a test message through a channel."),
    },
    "audit": {
        "show": ("audit_show", "Show the audit log: every act that took something away or changed a policy."),
        "verify": ("audit_verify", "Check that no line of the audit log was changed, removed or put in."),
    },
    "policy": {
        "list": ("policy_list", "List policies."),
        "show": ("policy_show", "Show a policy, its next runs and its items."),
        "create": ("policy_create", "Make a policy."),
        "set": ("policy_set", "Change a policy."),
        "delete": ("policy_delete", "Delete a policy."),
        "assign": ("policy_assign", "Name the policy of items."),
        "simulate": ("policy_simulate", "Draw which points a policy would leave, and what a change would expire."),
    },
    "vault": {
        "create": ("vault_create", "Make a vault."),
        "list": ("vault_list", "List the vaults of this machine."),
        "show": ("vault_show", "Show a vault's settings."),
        "set": ("vault_set", "Change a vault's settings."),
        "check": ("vault_check", "Check a vault's structure and count what nobody needs."),
        "repair": ("vault_repair", "Heal what is damaged where a copy is left."),
        "key": ("", "Look at the keys of an encrypted vault and change them."),
    },
    "config": {
        "show": ("config_show", "Show all settings as they apply."),
        "validate": ("config_validate", "Check configuration files."),
        "path": ("config_path", "Show which configuration files are read."),
    },
    "vault key": {
        "list": ("vault_key_list", "List the key slots of a vault."),
        "add": ("vault_key_add", "Add a passphrase or key file that opens the vault."),
        "rotate": ("vault_key_rotate", "Begin a new data key, or give a slot a new passphrase."),
        "remove": ("vault_key_remove", "Remove a key slot: its passphrase or key file opens no more."),
        "export": ("vault_key_export", "Print the paper key, which opens the vault when all else is lost."),
        "import": ("vault_key_import", "Get back in with the paper key, and set a new passphrase."),
    },
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called; `words` lead to it from the root."""

    def __init__(
        self, words: tuple[str, ...], table: dict[str, tuple[str, str]], aliases: dict[str, str], help_text: str
    ) -> None:
        super().__init__(words[-1] if words else PROGRAM, help=help_text)
        self._words = words
        self._table = table
        self._aliases = aliases

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order of the table: what is used most stands first."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import the command's module, or make the sub-group."""
        name = self._aliases.get(cmd_name, cmd_name)
        if name not in self._table:
            return None
        module, line = self._table[name]
        if not module:
            words = (*self._words, name)
            return LazyGroup(words, GROUPS[" ".join(words)], {}, line)
        command: click.Command = import_module(f"blockvault.cli.commands.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The table itself: nothing is imported."""
        others: dict[str, list[str]] = {}
        for alias, name in self._aliases.items():
            others.setdefault(name, []).append(alias)
        rows = [
            (name, line + (f" (also: {', '.join(others[name])})" if name in others else ""))
            for name, (_, line) in self._table.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command's name for one that does not exist."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, [*self._table, *self._aliases], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"there is no command '{name}'{hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        import blockvault

        click.echo(f"{PROGRAM} {blockvault.__version__}")
        ctx.exit()


def make_app() -> click.Group:
    """The root of the tree."""
    app = LazyGroup(
        (),
        COMMANDS,
        ALIASES,
        "Block-level backup of virtual machines and disk images.\n\n"
        "`blockvault snapshot disk.img` takes the first recovery point; nothing has to be set up before.",
    )
    app.params.append(
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version.",
        )
    )
    return app


def run(arguments: list[str] | None = None) -> int:
    """Parse, run the leaf, return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        # A path that is not valid UTF-8 is printed as the bytes that it is.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    try:
        code = _run_click(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone. Point standard output elsewhere, or Python complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run_click(words: list[str]) -> int:
    try:
        result: Any = make_app().main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and newer; older ones print the help themselves
            error.show()
            return 2
        return _usage_failure(error, words)
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)
        return 130
    return result if isinstance(result, int) else 0


def _usage_failure(error: click.ClickException, words: list[str]) -> int:
    from blockvault.cli.call import print_failure
    from blockvault.cli.failures import usage_error
    from blockvault.cli.render import Output

    context = getattr(error, "ctx", None)
    command = context.command_path if context else PROGRAM
    known = usage_error(error.format_message(), command)
    print_failure(Output(as_json="--json" in words), known, 2, known)
    return 2
