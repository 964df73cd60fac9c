"""`blockvault version`: the program and its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call

PARTS = ("lmdb", "numpy", "zstandard", "xxhash", "blake3", "cryptography", "click")


@click.command("version")
@leaf(vault=False)
def command(call: Call) -> int | None:
    """Print the versions of the program and its parts."""
    import platform
    from importlib.metadata import version

    import blockvault
    from blockvault import kernel

    build = kernel.build_info()
    parts = {name: version(name) for name in PARTS}
    if call.output.as_json:
        call.output.document(
            {
                "schema": "blockvault.version/1",
                "version": blockvault.__version__,
                "kernel": {"name": kernel.KERNEL, **build},
                "python": platform.python_version(),
                "parts": parts,
            }
        )
        return None
    simd = " ".join(build["simd"]) or "no SIMD"
    call.output.line(f"blockvault {blockvault.__version__}")
    call.output.line(f"kernel {kernel.KERNEL} {build['version']} ({build['profile']}, {simd})")
    call.output.line(f"Python {platform.python_version()}, " + ", ".join(f"{name} {parts[name]}" for name in PARTS))
    return None
