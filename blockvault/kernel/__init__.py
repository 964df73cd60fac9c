"""The byte loops: scan, identify, encode, decode, apply.

Two kernels say the same thing. `native` is the compiled core, for speed; `reference` is its twin in plain
Python, for reading and as the oracle of the property tests. `BLOCKVAULT_KERNEL=reference` selects the twin;
everything above this floor uses whichever was selected and cannot tell them apart but by time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blockvault.errors import InvalidInputError

KERNEL: str = os.environ.get("BLOCKVAULT_KERNEL") or "native"
"""The kernel in use: `native` or `reference`."""

if KERNEL not in {"native", "reference"}:
    raise InvalidInputError(
        "kernel.unknown",
        f"there is no kernel named {KERNEL!r}",
        why="the environment variable BLOCKVAULT_KERNEL names it",
        do="unset it, or set it to native or reference",
    )

# For the type checker the native stub is the interface; a property test holds the reference to it.
if TYPE_CHECKING or KERNEL == "native":
    from blockvault.kernel.native import (
        BlockBatch,
        CancelToken,
        PlainBatch,
        ScanBatch,
        apply,
        build_info,
        clear,
        copy_range,
        decode,
        encode,
        encrypt,
        identify,
        identify_plain,
        scan,
    )
else:
    from blockvault.kernel.reference import (
        BlockBatch,
        CancelToken,
        PlainBatch,
        ScanBatch,
        apply,
        build_info,
        clear,
        copy_range,
        decode,
        encode,
        encrypt,
        identify,
        identify_plain,
        scan,
    )

__all__ = [
    "KERNEL",
    "BlockBatch",
    "CancelToken",
    "PlainBatch",
    "ScanBatch",
    "apply",
    "build_info",
    "clear",
    "copy_range",
    "decode",
    "encode",
    "encrypt",
    "identify",
    "identify_plain",
    "scan",
]
