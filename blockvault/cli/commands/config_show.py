"""`blockvault config show`: every setting as it applies now, and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("show")
@click.option("--origin", is_flag=True, help="Show where each value comes from: file and line, variable, option.")
@leaf(vault=False)
def command(call: Call, origin: bool) -> int | None:
    """Show all settings as they apply.

    An option of the command comes before the environment, that before the file of --config, the user's file, the
    system's files, and what is built in. Addresses that may hold a secret are shown as ***.
    """
    settings = call.settings
    if call.output.as_json:
        shown = settings.shown()
        origins = {name: _origin(settings.origin_of(name)) for name in shown}
        fields = {"schema": "blockvault.config/1", "settings": shown, "files": settings.files}
        call.output.document({**fields, "origins": origins} if origin else fields)
        return None
    rows = [(name, _text(value), str(settings.origin_of(name))) for name, value in settings.shown(as_text=True).items()]
    if origin:
        call.output.table(("setting", "value", "from"), rows)
    else:
        call.output.table(("setting", "value"), [row[:2] for row in rows])
    return None


def _origin(origin: Any) -> dict[str, Any]:
    return {"source": origin.source, "line": origin.line or None}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items() if entry != "-")
    return str(value)
