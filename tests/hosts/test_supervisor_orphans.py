"""Programs that outlive their daemon or leave their process group: seen, named, and ended when asked to."""

from __future__ import annotations

import os
import signal

import pytest
from ports import free_port
from supervised import Supervised, until

from lmctl.errors import LmctlError
from lmctl.hosts import pids
from lmctl.record import replace
from lmctl.spec import program_id


def test_F68_programs_that_outlive_a_killed_daemon_are_seen_and_end_when_asked_to(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    orphan = stack.pid("code")
    stack.kill_daemon()
    daemon = stack.supervisor.observe()
    assert (daemon.pid, daemon.processes, daemon.orphans) == (None, {}, {program_id("code"): orphan})
    assert daemon.killed
    with pytest.raises(LmctlError, match=rf"still run: code \(pid {orphan}\) — run `lmctl down`") as caught:
        stack.supervisor.reload(frozenset())
    assert (caught.value.code, stack.supervisor.observe().pid) == ("E-SUPERVISOR", None)
    assert pids.stat(orphan), "a reload ends no program that it was not asked to end"
    stack.supervisor.shutdown()
    assert pids.stat(orphan) is None
    assert not stack.supervisor.observe().killed, "it is wanted no more"
    stack.supervisor.reload(frozenset())
    assert stack.process("code").running


def test_F68_a_removed_program_that_outlived_its_daemon_stays_in_sight(stack: Supervised) -> None:
    stack.up(stack.spec("code"), stack.spec("chat"))
    orphan = stack.pid("chat")
    stack.pid("code")
    stack.kill_daemon()
    stack.supervisor.write([stack.spec("code")])
    daemon = stack.supervisor.observe()
    assert (daemon.specs[program_id("chat")].profile, daemon.orphans[program_id("chat")]) == ("chat", orphan)
    stack.supervisor.shutdown()
    assert pids.stat(orphan) is None
    assert list(stack.supervisor.observe().specs) == [program_id("code")]


def test_F68_a_program_removed_by_a_killed_run_is_seen_until_the_next_one_ends_it(stack: Supervised) -> None:
    programs = [stack.spec("code"), stack.spec("chat")]
    stack.up(*programs)
    pid = stack.pid("chat")
    assert stack.supervisor.write(programs[:1]) is True  # and then the run was killed
    daemon = stack.supervisor.observe()
    assert (set(daemon.specs), daemon.edited) == ({spec.id for spec in programs}, (program_id("chat"),))
    assert (daemon.processes[program_id("chat")].pid, pids.stat(pid) is not None) == (pid, True)
    assert stack.supervisor.write(programs[:1]) is True, "there is still something to reload"
    stack.supervisor.reload(frozenset())
    assert pids.stat(pid) is None
    assert (set(stack.supervisor.observe().specs), stack.states()) == ({program_id("code")}, {"code": "RUNNING"})
    assert stack.supervisor.write(programs[:1]) is False


ESCAPES = """
import os, signal, socket, sys, time
line = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork() == 0:
    os.setsid()
print("listening on", sys.argv[1], flush=True)
while True:
    time.sleep(600)
"""


@pytest.mark.parametrize("command", ["stop", "shutdown", "replace"])
def test_F78_who_left_the_group_with_the_port_is_named_and_not_killed(stack: Supervised, command: str) -> None:
    port = free_port()
    argv = ("{python}", "-c", ESCAPES, str(port))
    spec = replace(stack.spec("code"), argv=argv, listen=f"127.0.0.1:{port}")
    stack.up(spec)
    until(lambda: stack.output("code").count(b"listening on") == 2)
    pid = stack.pid("code")
    (child,) = set(pids.tree(pid)) - {pid}
    actions = {
        "stop": lambda: stack.supervisor.stop(spec.id),
        "shutdown": stack.supervisor.shutdown,
        "replace": lambda: stack.up(replace(spec, hash=stack.mark + "2"), replace=("code",)),
    }
    try:
        for _ in range(2):
            with pytest.raises(LmctlError, match=f"process {child} left the group .* kill {child}") as caught:
                actions[command]()
            assert (caught.value.code, caught.value.problems[0].change) == ("E-SUPERVISOR", spec.id)
            assert (pids.stat(pid), pids.stat(child) is not None) == (None, True)
    finally:
        os.kill(child, signal.SIGKILL)
    until(lambda: pids.stat(child) is None)
    actions[command]()


@pytest.mark.parametrize("command", ["stop", "shutdown"])
def test_F68_programs_that_outlive_a_killed_daemon_can_be_stopped(stack: Supervised, command: str) -> None:
    stack.up(stack.spec("code"))
    orphan = stack.pid("code")
    stack.kill_daemon()
    stack.supervisor.stop(program_id("code")) if command == "stop" else stack.supervisor.shutdown()
    assert pids.stat(orphan) is None and stack.supervisor.observe().orphans == {}
