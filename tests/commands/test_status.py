"""What `lmctl status` says about supervisord and about programs that are not as they should be."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest
from declarations import LINUX, PRELUDE, Place

from lmctl.commands import status
from lmctl.host import Daemon
from lmctl.result import Result
from lmctl.spec import Health, Process, ProgramSpec, program_id
from lmctl.text import PLAIN

ID = program_id("code")
SPEC = ProgramSpec(ID, "code", ("llama-server", "--alias", "code"), {}, ".", "h", "127.0.0.1:8081", autostart=True)


@pytest.fixture
def show(tmp_path, home):
    """Return what status says of one declared profile whose supervisord shows itself so."""

    def run(
        daemon: Daemon, *words: str, health: Health | None = None, printed: bytes = b"", ending: str = ""
    ) -> Result:
        place = Place(tmp_path, home)
        place.write("localmodels.toml", PRELUDE + '[profiles.code]\nmodel = "o/m"\nport = 8081\n')
        (tmp_path / "log").write_bytes(printed)
        supervisor = SimpleNamespace(
            observe=lambda: daemon, log=lambda program: tmp_path / "log", ending=lambda program: ending
        )
        host = SimpleNamespace(
            store=SimpleNamespace(signature=lambda path: None, partials=lambda: (), locate=lambda *_: ()),
            supervisor=supervisor,
            engines=SimpleNamespace(find=lambda backend: None),
            processes=SimpleNamespace(
                probe=lambda *_: health or Health("healthy"),
                memory=lambda pids: dict.fromkeys(pids, 1 << 20),
                busy=lambda ports: frozenset(),
            ),
            hardware=LINUX,
            environ={},
            now=lambda: 1000.0,
        )
        context = SimpleNamespace(declaration=lambda *, empty: place.load(), folders=place.folders, host=lambda _: host)
        parser = argparse.ArgumentParser()
        status.add_arguments(parser)
        return status.run(context, parser.parse_args(words))  # type: ignore[arg-type]

    return run


def text(result: Result) -> str:
    assert callable(result.text)
    return result.text(PLAIN)


def row(result: Result) -> dict:
    (found,) = result.data["profiles"]  # type: ignore[misc]
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("daemon", "head"),
    [
        pytest.param(Daemon(99, {}, {}), "supervisord pid 99, ", id="it-runs"),
        pytest.param(Daemon(None, {}, {}), "supervisord is not running, ", id="F65-not-running"),
        pytest.param(
            Daemon(99, {}, {}, problem="supervisord runs, but its socket is gone"),
            "supervisord runs, but its socket is gone (pid 99): run `lmctl down`, then `lmctl apply`, ",
            id="F66-no-socket",
        ),
        pytest.param(
            Daemon(None, {}, {}, problem="supervisord cannot be asked: HTTP status 500"),
            "supervisord cannot be asked: HTTP status 500: run `lmctl down`, then `lmctl apply`, ",
            id="F69-another-one-answers",
        ),
    ],
)
def test_the_head_says_what_is_wrong_with_supervisord(show, daemon, head):
    assert f": {head}" in text(show(daemon)).splitlines()[0]


def test_F66_programs_of_a_daemon_that_cannot_be_asked_are_not_called_stopped(show):
    found = row(show(Daemon(99, {}, {ID: SPEC}, problem="supervisord runs, but its socket is gone", unseen={ID: 77})))
    assert (found["state"], found["pid"]) == ("healthy", 77)


def test_F68_an_orphan_is_shown_with_its_pid_and_the_way_out(show):
    result = show(Daemon(None, {}, {ID: SPEC}, orphans={ID: 77}), "code")
    assert (row(result)["state"], row(result)["pid"], result.exit_code) == ("orphaned", 77, 9)
    assert "code (orphaned): its supervisord was killed; `lmctl apply` ends it" in text(result)


def test_F76_a_frozen_program_is_unhealthy_and_why(show):
    frozen = Process(ID, "RUNNING", pid=77, started=400.0, hash="h")
    result = show(Daemon(99, {ID: frozen}, {ID: SPEC}), "code", health=Health("down", "/health does not answer"))
    assert (row(result)["state"], result.exit_code) == ("unhealthy", 9)
    assert "code (unhealthy): /health does not answer, 10m after its start\n" in text(result)


def test_F75_a_crash_loop_is_shown_with_the_end_of_its_log_when_it_is_asked_for(show):
    daemon = Daemon(99, {ID: Process(ID, "EXITED", exit_status=75)}, {ID: SPEC})
    said = {"printed": b"loading\nout of \x1b[31mmemory\n", "ending": "terminated by SIGKILL"}
    result = show(daemon, "code", **said)
    assert (row(result)["state"], row(result)["log"], result.exit_code) == (
        "crash-loop",
        ["loading", "out of \\x1b[31mmemory"],
        9,
    )
    assert text(result).endswith(
        "code (crash-loop): it crashed again and again (terminated by SIGKILL)\n"
        "  | loading\n  | out of \\x1b[31mmemory\n"
    )
    every = show(daemon, **said)
    assert (row(every)["log"], every.exit_code) == ([], 0)
    assert text(every).endswith("(terminated by SIGKILL)\n")
