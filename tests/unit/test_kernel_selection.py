"""Which kernel is used, how a missing or a debug one shows, and that both have one interface."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.kernels import NATIVE, REFERENCE

import blockvault.kernel

VERBS = ["scan", "identify", "identify_plain", "encode", "encrypt", "decode", "apply", "clear", "copy_range"]


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, errors and warnings included."""
    variables = {name: value for name, value in os.environ.items() if name != "BLOCKVAULT_KERNEL"}
    root = str(Path(blockvault.kernel.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**variables, "PYTHONPATH": root, **environment},
    )
    return (result.stdout + result.stderr).strip()


@pytest.mark.parametrize("wanted", ["native", "reference"])
def test_the_environment_selects(wanted: str) -> None:
    code = "from blockvault import kernel; print(kernel.KERNEL, kernel.scan.__module__, kernel.build_info()['profile'])"
    answer = run(code, BLOCKVAULT_KERNEL=wanted)
    assert answer.startswith(wanted)
    assert ("blockvault.kernel.reference reference" in answer) == (wanted == "reference")


def test_native_is_used_when_nothing_is_said() -> None:
    code = "from blockvault import kernel; print(kernel.KERNEL)"
    assert run(code) == "native"
    assert run(code, BLOCKVAULT_KERNEL="") == "native"


def test_an_unknown_kernel_is_refused() -> None:
    code = (
        "from blockvault.errors import InvalidInputError\n"
        "try:\n    import blockvault.kernel\n"
        "except InvalidInputError as error:\n    print(error.kind, error.do)"
    )
    assert run(code, BLOCKVAULT_KERNEL="nativ") == "kernel.unknown unset it, or set it to native or reference"


def test_a_missing_core_is_a_clear_error_and_never_the_slow_twin() -> None:
    code = (
        "import sys; sys.modules['blockvault._native'] = None\n"
        "from blockvault.errors import UnsupportedError\n"
        "try:\n    import blockvault.kernel\n"
        "except UnsupportedError as error:\n    print(error.kind, '|', error.do)"
    )
    answer = run(code)
    assert answer.startswith("kernel.missing | ")
    assert "BLOCKVAULT_KERNEL=reference" in answer


def test_a_debug_build_warns_on_import() -> None:
    # The real core with one answer changed: the profile that a debug build reports.
    code = (
        "import blockvault._native as core\n"
        "info = {**core.build_info(), 'profile': 'debug'}\n"
        "core.build_info = lambda: info\n"
        "import blockvault.kernel"
    )
    assert "RuntimeWarning: the compiled core is a debug build" in run(code)


def parameters(callable_: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(callable_).parameters.values()]


@pytest.mark.parametrize("verb", VERBS)
def test_both_kernels_take_the_same_arguments(verb: str) -> None:
    assert parameters(getattr(NATIVE, verb)) == parameters(getattr(REFERENCE, verb))


@pytest.mark.parametrize("name", ["CancelToken", "ScanBatch", "PlainBatch", "BlockBatch"])
def test_both_kernels_hand_out_the_same_attributes(name: str) -> None:
    def public(kernel: Any) -> set[str]:
        cls = getattr(kernel, name)
        fields = set(getattr(cls, "__dataclass_fields__", {}))
        made = {"chunk_size", "states", "digests", "ids", "read_bytes"} if name == "PlainBatch" else set()
        return {each for each in dir(cls) if not each.startswith("_")} | fields | made

    assert public(NATIVE) == public(REFERENCE)


def test_the_core_says_what_it_is() -> None:
    info = NATIVE.build_info()
    assert info["profile"] in {"release", "debug"}
    assert info["threads"] >= 1
    assert info["version"][0].isdigit()
    assert isinstance(info["simd"], list)
