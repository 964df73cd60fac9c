"""The only importer of the compiled core `blockvault._native`.

A missing core is a clear error, not a silent fall to the slow reference; a debug build warns, so that nobody
measures it by mistake.
"""

from __future__ import annotations

import warnings

from blockvault.errors import UnsupportedError

try:
    from blockvault._native import (
        ERROR_KINDS,
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
except ImportError as error:
    raise UnsupportedError(
        "kernel.missing",
        "the compiled core of BlockVault is not installed",
        why=str(error),
        do="run `pip install .` with a Rust toolchain, or set BLOCKVAULT_KERNEL=reference (slow)",
    ) from error

if build_info()["profile"] != "release":
    warnings.warn(
        "the compiled core is a debug build: many times slower than a release build, measure nothing with it",
        RuntimeWarning,
        stacklevel=2,
    )

__all__ = [
    "ERROR_KINDS",
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
