"""Who holds a port, a file and memory, and whether the right program answers."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ports import free_port
from supervised import SERVER, until

from lmctl.hosts import pids, probe
from lmctl.hosts.processes import LocalProcesses
from lmctl.spec import Health, Probe

PROCESSES = LocalProcesses()
HOW = Probe("/health", "/v1/models", "m")
NO_SUCH_PID = 2**22 + 7


@pytest.fixture(params=["proc", "psutil"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of looking at processes, where both work."""
    if request.param == "psutil":
        monkeypatch.setattr(pids, "LINUX", False)
    elif not pids.LINUX:
        pytest.skip("no /proc here")
    return str(request.param)


@contextmanager
def engine(*args: str) -> Iterator[tuple[int, int]]:
    """Run the stand-in engine; yield its pid and port."""
    command = [sys.executable, SERVER, "0", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline().split()[-1])
        finally:
            os.killpg(process.pid, 9)


@contextmanager
def listening(host: str, family: int = socket.AF_INET) -> Iterator[int]:
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip(f"{host} cannot be used here")
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "family"),
    [
        pytest.param("127.0.0.1", socket.AF_INET, id="F74-loopback"),
        pytest.param("0.0.0.0", socket.AF_INET, id="F74-everywhere"),
        pytest.param("::1", socket.AF_INET6, id="F74-ipv6-loopback"),
        pytest.param("::", socket.AF_INET6, id="F74-ipv6-everywhere"),
    ],
)
def test_whoever_holds_a_port_is_named(way: str, host: str, family: int) -> None:
    with listening(host, family) as port:
        found = PROCESSES.listener(port)
    assert found and found.pid == os.getpid()
    assert "python" in found.command


def test_a_free_port_has_no_listener(way: str) -> None:
    assert PROCESSES.listener(free_port()) is None


@pytest.mark.skipif(not pids.LINUX, reason="other addresses of 127/8 need Linux")
def test_F74_a_connection_is_no_listener() -> None:
    with listening("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port)) as client:
        assert PROCESSES.listener(client.getsockname()[1]) is None


def test_descendants_and_their_memory(way: str) -> None:
    with engine("--mode", "fork_grandchild") as (pid, _):
        until(lambda: len(pids.tree(pid)) == 2)
        child = next(member for member in pids.tree(pid) if member != pid)
        assert PROCESSES.root(pid, [os.getpid(), pid]) == PROCESSES.root(child, [pid]) == pid
        assert PROCESSES.root(pid, {os.getpid(), child}) == os.getpid()
        assert PROCESSES.root(pid, {child}) is None
        memory = PROCESSES.memory([pid, child, NO_SUCH_PID])
        assert memory[pid] > memory[child] > 1 << 20 and NO_SUCH_PID not in memory
    assert (PROCESSES.memory([pid]), PROCESSES.root(pid, [pid])) == ({}, None)


_HOLD = "import sys, mmap, time; f = open(sys.argv[1], 'rb'); {}; print('held', flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    "how",
    ["pass", pytest.param("m = mmap.mmap(f.fileno(), 0, prot=1); f.close()", id="mapped")],
    ids=["opened", None],
)
def test_F60_who_has_a_file_open_or_mapped(way: str, tmp_path: Path, how: str) -> None:
    if way == "psutil" and "mmap" in how:
        pytest.skip("psutil tells of open files alone on macOS")
    path, link = tmp_path / "blob", tmp_path / "weights.gguf"
    path.write_bytes(b"x" * mmap.PAGESIZE)
    link.symlink_to(path)
    with subprocess.Popen([sys.executable, "-c", _HOLD.format(how), str(link)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"held\n"
            other = tmp_path / "other"
            other.write_bytes(b"x")
            held = (process.pid,)
            second = tmp_path / "hard link"
            second.hardlink_to(path)
            assert PROCESSES.holders([path, other, link, second]) == {path: held, other: (), link: held, second: held}
        finally:
            process.kill()
    with path.open("rb"):
        assert PROCESSES.holders([path]) == {path: ()}, "lmctl itself does not count"
    missing = tmp_path / "missing"
    assert PROCESSES.holders([missing]) == {missing: ()}


def test_a_right_program_that_answers_is_healthy(way: str) -> None:
    with engine() as (pid, port):
        for root in (pid, os.getpid(), None):
            assert PROCESSES.probe(f"127.0.0.1:{port}", HOW, root) == Health("healthy")


def test_nobody_there_is_down(way: str) -> None:
    for root in (os.getpid(), None):
        health = PROCESSES.probe(f"127.0.0.1:{free_port()}", HOW, root)
        assert (health.state, "nothing listens" in health.why) == ("down", True)


def test_F74_the_right_answer_from_a_foreign_process_is_wrong(way: str) -> None:
    with engine() as (pid, port), engine() as (ours, _):
        health = PROCESSES.probe(f"127.0.0.1:{port}", HOW, ours)
        assert health.state == "wrong" and f"held by pid {pid} (python" in health.why


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a probe wait for its answer as long as a machine with much to do may take."""
    monkeypatch.setattr(probe, "TIMEOUT", 60.0)


@pytest.mark.parametrize(
    ("mode", "state", "why"),
    [
        pytest.param("wrong_model", "wrong", "it serves another-model instead of m", id="F77-wrong-model"),
        pytest.param("hang", "down", "does not answer within", id="F77-hangs"),
        pytest.param("slow_load", "loading", "being loaded", id="F76-loading"),
    ],
)
def test_a_program_that_does_not_serve(monkeypatch: pytest.MonkeyPatch, mode: str, state: str, why: str) -> None:
    if mode == "hang":
        monkeypatch.setattr(probe, "TIMEOUT", 0.3)
    with engine("--mode", mode, "--delay", "600") as (pid, port):
        health = PROCESSES.probe(f"127.0.0.1:{port}", HOW, pid)
    assert (health.state, why in health.why) == (state, True), health


def test_a_model_may_be_named_by_the_folder_behind_the_links_to_it(tmp_path: Path) -> None:
    (real := tmp_path / "real").mkdir()
    (link := tmp_path / "link").symlink_to(real)
    models = json.dumps({"data": [{"id": os.path.realpath(real)}]}).encode()
    with answering(reply(200, models)) as listen:
        right, wrong = (Probe("/", "/v1/models", str(path)) for path in (link, tmp_path))
        assert PROCESSES.probe(listen, right, os.getpid()) == Health("healthy")
        assert PROCESSES.probe(listen, wrong, os.getpid()).state == "wrong"


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Answer every GET by `answer`; yield where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def reply(
    status: int, body: bytes = b"", header: tuple[str, str] = ("X", "y")
) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header(*header)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    try:
        while True:
            handler.wfile.write(b"H")
            time.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("answer", "state", "why"),
    [
        pytest.param(reply(404), "down", "/health answers 404", id="no-health"),
        pytest.param(reply(500), "down", "/health answers 500", id="F77-broken"),
        pytest.param(reply(302, header=("Location", "http://127.0.0.1:1/")), "down", "answers 302", id="redirect"),
        pytest.param(reply(200, b"<html>"), "wrong", "no list of models", id="F77-html"),
        pytest.param(reply(200, b'{"data": [{}]}'), "wrong", "no list of models", id="F77-no-id"),
        pytest.param(reply(200, b'{"data": []}'), "wrong", "it serves nothing instead", id="F77-no-model"),
        pytest.param(
            reply(200, b'{"data": [{"id": "\\u001b[2J"}]}'), "wrong", "serves \\x1b[2J instead", id="F77-escape"
        ),
        pytest.param(reply(200, b"[" * 100_000), "wrong", "no list of models", id="F77-deep"),
        pytest.param(reply(200, b" " * (2 << 20)), "wrong", "no list of models", id="F77-large"),
        pytest.param(lambda handler: handler.wfile.write(b"SSH-2.0\r\n"), "down", "no HTTP", id="F74-no-http"),
        pytest.param(lambda handler: None, "down", "no HTTP", id="F77-hangs-up"),
        pytest.param(drip, "down", "/health", id="F77-drips"),
    ],
)
def test_a_strange_answer_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[BaseHTTPRequestHandler], None], state: str, why: str
) -> None:
    if answer is drip:
        monkeypatch.setattr(probe, "TIMEOUT", 0.3)
    with answering(answer) as listen:
        health = PROCESSES.probe(listen, HOW, os.getpid())
    assert (health.state, why in health.why) == (state, True), health


def test_proxies_are_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with engine() as (pid, port):
        assert PROCESSES.probe(f"127.0.0.1:{port}", HOW, pid).state == "healthy"


def test_a_program_without_a_model_list_is_asked_for_its_health_alone() -> None:
    with answering(reply(200)) as listen:
        assert PROCESSES.probe(listen, Probe("/"), os.getpid()).state == "healthy"


@pytest.mark.skipif(not pids.LINUX, reason="psutil is needed elsewhere")
def test_a_probe_needs_no_psutil() -> None:
    code = (
        "import os, sys; from lmctl.hosts.processes import LocalProcesses; from lmctl.spec import Probe;"
        "p = LocalProcesses(); print(p.probe('127.0.0.1:' + sys.argv[1], Probe(), int(sys.argv[2])).state,"
        " p.memory([os.getpid()])[os.getpid()] > 0, 'psutil' in sys.modules)"
    )
    with engine() as (pid, port):
        done = subprocess.run(
            [sys.executable, "-c", code, str(port), str(pid)], capture_output=True, text=True, check=True
        )
    assert done.stdout == "healthy True False\n"
