"""`blockvault service install`: the units of systemd."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("install")
@click.option("--timer", is_flag=True, help="A timer that looks every few minutes, instead of a daemon.")
@click.option("--print", "only_print", is_flag=True, help="Print the units; write nothing.")
@leaf(vault=False)
def command(call: Call, timer: bool, only_print: bool) -> int | None:
    """Write the units that run the daemon, or a timer.

    Root gets units of the system, anybody else of their own user manager. They are enabled and started where systemd
    runs; elsewhere the commands that do it are printed.
    """
    from blockvault.config import default_state_dir
    from blockvault.daemon.service import install, unit_folder, units

    system = os.geteuid() == 0
    made = units(default_state_dir(), system=system, timer=timer)
    if only_print:
        if call.output.as_json:
            files = [{"name": unit.name, "text": unit.text} for unit in made]
            call.output.document({"schema": "blockvault.units/1", "folder": unit_folder(system=system), "units": files})
            return None
        for unit in made:
            call.output.line(f"# {unit_folder(system=system)}/{unit.name}")
            call.output.line(unit.text)
        return None
    done = install(made, system=system)
    if call.output.as_json:
        call.output.document(
            {"schema": "blockvault.service/1", "written": done.paths, "started": done.started, "left_to_do": done.left}
        )
        return None
    for path in done.paths:
        call.output.line(f"wrote {path}")
    if done.started:
        call.output.line(f"{made[-1].name} is enabled and runs")
    for words in done.left:
        call.output.note(f"still to do: {words}")
    return None
