"""The guest agent's client: in step with an agent that is well, and an error with one that is not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.guest_agent import FakeAgent

from blockvault.errors import HookError
from blockvault.hooks import guest_agent
from blockvault.hooks.guest_agent import GuestAgent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with FakeAgent(tmp_path) as made:
        yield made


def talk(path: str, seconds: float) -> None:
    with GuestAgent(path, ask_seconds=seconds) as client:
        client.info()
        client.freeze(seconds)
        client.thaw(seconds)


def failure(agent: FakeAgent, *, seconds: float = 0.2) -> HookError:
    """What a whole talk with the agent ends with."""
    with pytest.raises(HookError) as caught:
        talk(agent.path, seconds)
    assert caught.value.do
    return caught.value


def test_a_talk_freezes_and_thaws(agent: FakeAgent) -> None:
    with GuestAgent(agent.path) as client:
        info = client.info()
        assert (info.version, info.can_freeze) == ("9.9.9", True)
        assert client.freeze() == 2
        assert client.is_frozen()
        assert agent.frozen
        assert client.thaw() == 2
        assert not client.is_frozen()
        assert client.thaw() == 0
    assert agent.asked[0] == "guest-sync-delimited"


@pytest.mark.parametrize(
    "left",
    [
        b'{"return": 7}\n',
        b'{"return": "half of an ans',
        b"\xff" + b'{"return": 12345}\n' + b'{"error": {"desc": "JSON parse error"}}\n',
        b"\x00\xfe\xff\xff\xff\n\n\xff[[[[\n",
        b"x" * 100_000,
        b"\xff" + b"[" * 50_000 + b"\n",
    ],
)
def test_what_was_left_in_the_channel_is_thrown_away(tmp_path: Path, left: bytes) -> None:
    with FakeAgent(tmp_path, before=left) as agent, GuestAgent(agent.path) as client:
        assert client.info().version == "9.9.9"


def test_a_second_talk_is_in_step_too(agent: FakeAgent) -> None:
    for _ in range(3):
        with GuestAgent(agent.path) as client:
            assert client.info().can_freeze


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HookError) as caught:
        GuestAgent(str(tmp_path / "none.sock"))
    assert caught.value.kind == "hook.agent-unreachable"


@pytest.mark.parametrize("kind", ["file", "folder", "dead"])
def test_a_path_that_is_no_living_socket(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    with pytest.raises(HookError) as caught:
        GuestAgent(str(path))
    assert caught.value.kind == "hook.agent-unreachable"


def test_a_long_path_is_no_matter(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as end:
        here = os.open(folder, os.O_PATH)
        end.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
        end.listen()
        with pytest.raises(HookError) as caught:
            GuestAgent(str(folder / "s"), ask_seconds=0.05)
    assert caught.value.kind == "hook.agent-silent"


@pytest.mark.parametrize(
    "command", ["guest-sync-delimited", "guest-info", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]
)
def test_silence_ends_with_an_error(agent: FakeAgent, command: str) -> None:
    agent.answers[command] = None
    assert failure(agent).kind == "hook.agent-silent"


@pytest.mark.parametrize("command", ["guest-info", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"])
@pytest.mark.parametrize(
    "said",
    [b"hello\n", b"[]\n", b'{"return": null}\n', b'{"return": -1}\n', b'{"return": true}\n', b"{}\n", b'"\xff\xfe"\n',
     b'{"return": {"version": 3}}\n', b"\x80\x81\n"],
)  # fmt: skip
def test_garbage_ends_with_an_error(agent: FakeAgent, command: str, said: bytes) -> None:
    agent.answers[command] = said
    assert failure(agent).kind == "hook.agent-garbled"


@pytest.mark.parametrize("command", ["guest-sync-delimited", "guest-info"])
def test_an_answer_without_end_is_not_taken_in(agent: FakeAgent, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_agent, "ANSWER_BYTES_MAX", 10_000)
    agent.answers[command] = b"x" * 200_000
    assert failure(agent, seconds=2).kind == "hook.agent-garbled"


def test_a_refusal_tells_the_agents_reason(agent: FakeAgent) -> None:
    agent.answers["guest-fsfreeze-freeze"] = (
        json.dumps({"error": {"class": "CommandNotFound", "desc": "it has been disabled"}}).encode() + b"\n"
    )
    error = failure(agent)
    assert (error.kind, error.why) == ("hook.agent-refused", "it has been disabled")


def test_an_agent_that_may_not_freeze_says_so(agent: FakeAgent) -> None:
    agent.can_freeze = False
    with GuestAgent(agent.path) as client:
        assert not client.info().can_freeze
