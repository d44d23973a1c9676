"""What an engine prints may be anything, and its log may be taken away: it is shown safely, and followed on."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from e2e_tools import profile
from fakes.llama_server import install, set_mode

from lmctl.spec import program_id

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
NOISE = b"\x1b[31mred\x1b]0;title\x07\0\xff\xfe half \xe2\x82 and no end"


@pytest.fixture
def engine(machine, tmp_path) -> Path:
    """A stand-in engine first on PATH, and a profile of it."""
    machine.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    machine.hello()
    return install(tmp_path)


@pytest.fixture
def followed(machine, engine, port):
    """A running profile; its log, and `logs -f` that follows it."""
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    machine.run("apply")
    log = machine.state() / "logs" / f"{program_id('hello')}.log"
    append(log, b"it begins\n")
    process = machine.start("logs", "-f", "-n", "1", "hello")
    up_to(process, "it begins")
    yield log, process
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "")


def append(log: Path, text: bytes) -> None:
    with log.open("ab") as file:
        file.write(text)


def up_to(process, last: str) -> list[str]:
    """Return the lines that come up to the one that ends with `last`."""
    lines = [process.stdout.readline()]
    while not lines[-1].endswith(f"{last}\n"):
        assert lines[-1], "it ended"
        lines.append(process.stdout.readline())
    return lines


def test_F79_a_log_of_binary_without_an_end_of_line_is_shown_safely(machine, engine, port):
    set_mode(engine, "binary_log")
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    machine.run("apply")
    for words in (["logs", "hello"], ["logs", "hello", "--json"], ["status"]):
        assert not CONTROL.search(machine.run(*words).out), words
    out = machine.run("logs", "hello").out
    assert r"\x1b[31mred\x1b]0;title\x07\x00" in out and "no end of line" in out


def test_F79_a_followed_log_may_be_deleted_replaced_rotated_or_cut(followed):
    log, process = followed
    append(log, b"first\n")
    up_to(process, "first")
    log.unlink()
    append(log, b"replaced\n")
    assert up_to(process, "replaced") == ["replaced\n"]
    log.rename(log.with_name("x.log.1"))
    append(log, b"rotated\n")
    assert up_to(process, "rotated") == ["rotated\n"]
    with log.open("wb") as file:
        file.write(b"cut\n")
    assert up_to(process, "cut") == ["cut\n"]


def test_F79_what_is_followed_is_shown_safely_line_or_no_line(followed):
    log, process = followed
    append(log, NOISE)
    (shown,) = up_to(process, "no end")
    assert shown == "\\x1b[31mred\\x1b]0;title\\x07\\x00\ufffd\ufffd half \ufffd and no end\n"
    append(log, b"\n" + b"x" * 300_000 + b"\nlast\n")
    lines = up_to(process, "last")
    assert max(map(len, lines)) <= (64 << 10) + 1
