"""`blockvault hook list`: the scripts around an item's capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.hooks.scripts import Hook


@click.command("list")
@click.argument("item", metavar="ITEM")
@leaf()
def command(call: Call, item: str) -> int | None:
    """List the scripts of an item in their order.

    They run with `pre` before an application-consistent capture, in this order, and with `post` after it, in the
    reverse order. A script that others could change is not run, and is shown with the reason.
    """
    with call.open_vault() as vault:
        hooks = vault.hooks(item)
    from blockvault.hooks.scripts import hooks_dir

    if call.output.as_json:
        call.output.document(
            {
                "schema": "blockvault.hooks/1",
                "item": item,
                "folder": hooks_dir(),
                "hooks": [hook_fields(hook) for hook in hooks],
            }
        )
    elif not hooks:
        call.output.note(f"no scripts: put executables named like 10-name into {hooks_dir()}, or {hooks_dir()}/{item}")
    else:
        rows = [(hook.name, "all items" if hook.for_all else item, hook.problem or "ok", hook.path) for hook in hooks]
        call.output.table(("hook", "of", "state", "path"), rows)
    for hook in hooks:
        if hook.problem:
            call.warn((f"hook {hook.name} is not run: {hook.problem}" + (f"; do: {hook.do}" if hook.do else ""),))
    return None


def hook_fields(hook: Hook) -> dict[str, Any]:
    """A script for `--json`."""
    return {
        "name": hook.name,
        "path": hook.path,
        "for_all": hook.for_all,
        "problem": hook.problem,
        "do": hook.do,
    }
