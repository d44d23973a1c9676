"""Looking asks this machine alone and runs nothing: without a network, under the kernel's trace and Python's audit."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from e2e_tools import profile
from weights.hello import hello

from lmctl.all_commands import COMMANDS

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
PROMISED = [[name] for name in ("plan", "status", "drift", "validate", "config", "history") if name in COMMANDS]
MORE = [
    ["verify"],
    ["verify", "--deep"],
    ["lock", "--check"],
    ["prune", "--dry-run"],
    ["trust", "--show"],
    ["apply", "--dry-run"],
]
# Events by which Python reaches the network or runs something; each is told on stderr as one line of JSON.
AUDITED = """
import json, sys
def tell(event, args):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}:
        seen = args[1]
    elif event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"} | {
        "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty", "pty.spawn"
    }:
        seen = args[:1]
    else:
        return
    sys.__stderr__.write(json.dumps(["audited", event, repr(seen)]) + "\\n")
sys.addaudithook(tell)
from lmctl.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(params=["running", "stopped", "incomplete"])
def looked_at(request, machine, hub, port):
    """A machine that has fetched a Hub profile: it runs, it does not, or another one was never locked; its port."""
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    number = port()
    text = profile("hello", model=REPO, quant="Q4_K_M", port=number)
    machine.declare(text)
    machine.run("apply")
    if request.param != "running":
        machine.run("down")
    if request.param == "incomplete":
        machine.declare(text + profile("far", model="org/far", quant="Q4_K_M", port=port(), start="manual"))
    hub.requests.clear()
    machine.environ["HF_ENDPOINT"] = "https://hub.invalid"
    machine.state_of = request.param
    yield number
    assert hub.requests == []


def commands(machine) -> list[list[str]]:
    """Return what is complete enough to be asked in this state without asking the Hub."""
    if machine.state_of == "incomplete":
        return PROMISED
    return [*PROMISED, *MORE, *([["apply"]] if running(machine) else [])]


def running(machine) -> bool:
    return bool(machine.state_of == "running")


def steady(text: str) -> str:
    """Return output without what passes while one looks: durations, memory."""
    return re.sub(r"\b\d+(\.\d+)?(s|m|h| [KMGT]?i?B)\b", "·", text)


@pytest.mark.needs("namespaces")
@pytest.mark.parametrize("looked_at", ["stopped", "incomplete"], indirect=True)
def test_without_any_network_the_answers_are_the_same(machine, looked_at):
    for words in PROMISED:
        argv = [sys.executable, "-m", "lmctl", *words]
        inside = ["unshare", "-rn", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *argv]
        ran = [
            subprocess.run(line, cwd=machine.folder, env=machine.env(), capture_output=True, text=True)
            for line in (argv, inside)
        ]
        assert ran[1].returncode == ran[0].returncode, ran[1].stderr
        assert steady(ran[1].stdout) == steady(ran[0].stdout)
        assert "E-" not in ran[1].stderr or ran[1].stderr == ran[0].stderr


@pytest.mark.needs("strace")
def test_the_kernel_sees_connections_to_our_own_socket_and_programs_alone(machine, looked_at, tmp_path):
    log = tmp_path / "calls"
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg,execve", "-o", str(log)]
    for words in commands(machine):
        argv = [*trace, sys.executable, "-m", "lmctl", *words]
        subprocess.run(argv, cwd=machine.folder, env=machine.env(), capture_output=True, check=False)
        calls = log.read_text().splitlines()
        reached = [call for call in calls if "sa_family" in call]
        own = re.compile(rf'127\.0\.0\.1|"s\.sock"|{re.escape(str(machine.home))}')
        assert [call for call in reached if not own.search(call)] == [], words
        assert all(f"htons({looked_at})" in call for call in reached if "127.0.0.1" in call), words
        assert len([call for call in calls if "execve(" in call]) == 1, f"{words} runs something"


def test_python_sees_connections_to_our_own_socket_and_programs_alone(machine, looked_at):
    own = {("socket.connect", f"('127.0.0.1', {looked_at})"), ("socket.getaddrinfo", "('127.0.0.1',)")}
    for words in commands(machine):
        argv = [sys.executable, "-P", "-c", AUDITED, *words]
        ran = subprocess.run(argv, cwd=machine.folder, env=machine.env(), capture_output=True, text=True)
        told = {tuple(json.loads(line)[1:]) for line in ran.stderr.splitlines() if line.startswith('["audited"')}
        ours = {(event, seen) for event, seen in told if event == "socket.connect" and str(machine.home) in seen}
        assert told - ours <= (own if running(machine) else set()), words


def test_the_audit_would_tell_of_a_connection(machine, hub):
    """Otherwise silence would mean nothing."""
    machine.declare(profile("far", model="org/far", quant="Q4_K_M"))
    argv = [sys.executable, "-P", "-c", AUDITED, "lock"]
    ran = subprocess.run(argv, cwd=machine.folder, env=machine.env(), capture_output=True, text=True)
    assert '["audited", "socket.connect"' in ran.stderr
