"""Work in order on several threads: the order, the bound, and that no thread is left behind, however it ends."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest
from helpers.files import noise
from helpers.site import Site

from blockvault.engine.packing import PackFiller
from blockvault.errors import DeviceError
from blockvault.pipeline import in_order


def workers_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("blockvault")]


def test_results_come_in_order_and_few_are_under_way() -> None:
    begun: list[int] = []
    given = 0

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    with in_order(work, range(50), workers=3) as results:
        for number in results:
            assert number == given
            given += 1
            assert len(begun) <= given + 3 + 2
    assert given == 50
    assert not workers_alive()


def test_no_thread_is_left_when_the_one_who_takes_fails_and_its_error_is_kept() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.05)
        done.append(number)
        return number

    kept = None
    try:
        with in_order(work, range(100), workers=2) as results:
            for _ in results:
                raise ValueError("full")
    except ValueError as error:
        kept = error
    count = len(done)
    assert not workers_alive()
    time.sleep(0.1)
    assert len(done) == count <= 4
    assert kept is not None


def test_an_error_of_the_work_ends_it_and_comes_out() -> None:
    def work(number: int) -> int:
        if number == 7:
            raise OSError(5, "no such luck")
        return number

    taken: list[int] = []

    def take() -> None:
        with in_order(work, range(1000), workers=2) as results:
            taken.extend(results)

    with pytest.raises(OSError, match="no such luck"):
        take()
    assert taken == list(range(7))
    assert not workers_alive()


def test_a_transfer_that_fails_leaves_no_thread_that_still_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error may be kept, with all that its frames hold: found as a test that stood still for good."""
    site = Site(tmp_path)
    image = tmp_path / "disk.img"
    image.write_bytes(noise(32 << 20, 1))

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackFiller, "append", full)
    gc.disable()  # what is in a cycle stays as long as it likes
    try:
        with pytest.raises(DeviceError) as caught:
            site.vault.snapshot([str(image)])
        left = [name for name in workers_alive() if not name.startswith("blockvault-seal")]
        assert not left
        assert caught.value.kind
    finally:
        gc.enable()
