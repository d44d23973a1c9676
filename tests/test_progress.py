"""What a person is told while something is under way."""

from __future__ import annotations

import io
import json
import os
import pty
import threading
from contextlib import suppress

import pytest

from lmctl.errors import OutputError
from lmctl.host import Progress
from lmctl.progress import Reporter
from lmctl.record import replace

MIB = 1 << 20


class Clock:
    """Stands in for time.monotonic: progress is about minutes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("lmctl.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def context(err, out=None, **options):
    from pathlib import Path

    from lmctl.command import Context, Options
    from lmctl.text import PLAIN

    nothing: dict = dict.fromkeys(("folders", "hardware", "declaration", "host"))
    return Context(
        **nothing, options=Options(Path("/"), **options), environ={"TERM": "xterm"}, err=err, style=PLAIN, out=out
    )


EVENT = Progress("model.gguf", 0, 1000 * MIB)


def test_what_is_quick_says_nothing(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        reporter.progress(EVENT)
        clock.now += 0.9
        reporter.progress(replace(EVENT, done=1000 * MIB, phase="done"))
    assert err.getvalue() == ""


def test_a_plain_line_now_and_then_tells_share_rate_and_time_left(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        reporter.progress(replace(EVENT, done=100 * MIB))  # resumed: these bytes are not of this run's rate
        for second in range(1, 11):
            clock.now += 1
            reporter.progress(replace(EVENT, done=(100 + 10 * second) * MIB))
        clock.now += 1
        reporter.progress(replace(EVENT, done=1000 * MIB, phase="done"))
    assert err.getvalue().splitlines() == [
        "model.gguf: download 15 %, 150.0 MiB of 1000.0 MiB, 10.0 MiB/s, 1m 25s left",
        "model.gguf: download 20 %, 200.0 MiB of 1000.0 MiB, 10.0 MiB/s, 1m 20s left",
        "model.gguf: done",
    ]


def test_nothing_moves_and_nothing_is_divided_by_nothing(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        reporter.progress(Progress("empty", 0, 0))
        clock.now += 6
        reporter.progress(Progress("empty", 0, 0))
    assert err.getvalue() == "empty: download 0 %, 0 B of 0 B, 0 B/s\n"


def test_waits_and_failures_are_told_at_once(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        reporter.progress(replace(EVENT, phase="wait", note="the Hub asks for 30 s\x1b[2J"))
        reporter.progress(replace(EVENT, path="b\n", phase="failed"))
        reporter.say("a line")
    assert err.getvalue() == "model.gguf: wait the Hub asks for 30 s\\x1b[2J\nb\\x0a: failed\na line\n"


def test_a_failure_names_what_failed_once(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        reporter.progress(replace(EVENT, phase="failed", note="model.gguf has another sha256"))
        reporter.progress(replace(EVENT, phase="failed", note="the Hub does not answer"))
    assert err.getvalue() == "failed: model.gguf has another sha256\nmodel.gguf: failed: the Hub does not answer\n"


@pytest.mark.parametrize("live", [True, False], ids=["terminal", "pipe"])
def test_F09_a_terminal_that_is_gone_ends_nothing(clock, live):
    ours, theirs = pty.openpty() if live else os.pipe()
    with open(os.dup(theirs), "w") as err:
        os.close(ours)
        with Reporter(context(err)) as reporter:
            reporter.say("a line")
            clock.now += 10
            reporter.progress(EVENT)
            clock.now += 10
            reporter.progress(replace(EVENT, done=500 * MIB))
            reporter.progress(replace(EVENT, phase="failed"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), err.fileno())
    os.close(theirs)


def test_quiet_means_nothing(clock):
    err = io.StringIO()
    with Reporter(context(err, quiet=True)) as reporter:
        reporter.say("a line")
        reporter.progress(replace(EVENT, phase="failed"))
    assert err.getvalue() == ""


def test_verbose_tells_every_end_however_quick(clock):
    err = io.StringIO()
    with Reporter(context(err, verbose=True)) as reporter:
        reporter.progress(replace(EVENT, phase="done"))
    assert err.getvalue() == "model.gguf: done\n"


def test_verbose_json_gives_every_event_a_line_on_stdout(clock):
    err, out = io.StringIO(), io.StringIO()
    with Reporter(context(err, out, json=True, verbose=True)) as reporter:
        reporter.progress(EVENT)
        reporter.progress(replace(EVENT, done=5, note="ü"))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["path"], line["done"], line["note"]) for line in lines] == [
        ("model.gguf", 0, ""),
        ("model.gguf", 5, "ü"),
    ]
    assert err.getvalue() == ""


def test_F10_a_reader_of_events_that_leaves_is_no_bug(clock):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        reporter = Reporter(context(io.StringIO(), out, json=True, verbose=True))
        with pytest.raises(OutputError):
            reporter.progress(EVENT)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_a_terminal_shows_bars(clock):
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                seen.extend(os.read(ours, 65536))
            except OSError:  # the other end is closed
                return

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(theirs, "w") as err, Reporter(context(err)) as reporter:
        reporter.progress(EVENT)
        clock.now += 2
        reporter.progress(replace(EVENT, done=500 * MIB))
        reporter.say("beside [the] bars")
        reporter.progress(replace(EVENT, done=1000 * MIB, phase="done"))
    thread.join(30)
    os.close(ours)
    text = seen.decode()
    assert "model.gguf" in text and "1,000.0" in text and "MiB" in text
    assert "beside [the] bars" in text


def test_a_program_that_is_awaited_is_told_of_now_and_then(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        for _ in range(12 * 4):
            reporter.progress(Progress("hello", 0, 0, "wait", "loading"))
            clock.now += 0.25
        reporter.progress(Progress("hello", 1, 1, "done", "127.0.0.1:8081"))
    assert err.getvalue().splitlines() == [
        "hello: waiting for 5s, it is loading",
        "hello: waiting for 10s, it is loading",
        "hello: listens on 127.0.0.1:8081",
    ]


def test_a_program_that_is_soon_there_says_nothing(clock):
    err = io.StringIO()
    with Reporter(context(err)) as reporter:
        reporter.progress(Progress("hello", 0, 0, "wait", "loading"))
        clock.now += 0.5
        reporter.progress(Progress("hello", 1, 1, "done", "127.0.0.1:8081"))
    assert err.getvalue() == ""


def test_events_of_waiting_do_not_flood_a_script(clock):
    out = io.StringIO()
    with Reporter(context(io.StringIO(), out, json=True, verbose=True)) as reporter:
        for _ in range(12 * 4):
            reporter.progress(Progress("hello", 0, 0, "wait", "loading"))
            clock.now += 0.25
        reporter.progress(Progress("hello", 1, 1, "done"))
    assert [json.loads(line)["phase"] for line in out.getvalue().splitlines()] == ["wait", "wait", "done"]


def test_a_terminal_shows_what_a_program_is_about(clock):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as err, Reporter(context(err)) as reporter:
        reporter.progress(Progress("hello", 0, 0, "wait", "loading"))
        clock.now += 2
        reporter.progress(Progress("hello", 0, 0, "wait", "crashed, trying again"))
    text = b""
    with suppress(OSError):  # the other end is closed, and all has been read
        while piece := os.read(ours, 65536):
            text += piece
    os.close(ours)
    assert b"hello (crashed, trying again)" in text
