"""The launcher: counting starts, refusing what lmctl did not write, and becoming the program byte by byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmctl import launch

ID = "p-0123456789ab"
HOLD, UNTRUSTED, CLEAR = {"hold": True}, {"hold": launch.UNTRUSTED}, {"clear": True}


def starts(*times: float) -> list[launch.Record]:
    return [{"at": float(at), "pid": 1, "hash": "h"} for at in times]


def state(folder: Path, argv: list[str], **changes: object) -> Path:
    """Make a state folder with one program file, as lmctl writes it but for `changes`."""
    for name in ("programs", "starts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    program = {"schema": 1, "id": ID, "argv": argv, "env": {}, "cwd": str(folder), "hash": "h", **changes}
    path = folder / "programs" / f"{ID}.json"
    path.write_text(json.dumps(program))
    path.chmod(0o600)
    return folder


def run(folder: Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "lmctl.launch", ID]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("records", "now", "answer"),
    [
        pytest.param([], 10.0, 1, id="the-first"),
        pytest.param(starts(1, 2, 3, 4), 10.0, 5, id="F75-the-fifth"),
        pytest.param(starts(1, 2, 3, 4, 5), 10.0, "5 starts within 10 minutes", id="F75-the-sixth"),
        pytest.param(starts(1, 2, 3, 4, 5), 602.5, 4, id="F75-old-ones-do-not-count"),
        pytest.param(starts(1000, 1001, 1002, 1003, 1004), 10.0, 1, id="F81-after-a-reboot"),
        pytest.param([*starts(1, 2, 3, 4, 5), CLEAR], 10.0, 1, id="after-a-deliberate-start"),
        pytest.param([HOLD], 10.0, "it is held (lmctl start lifts that)", id="held"),
        pytest.param([UNTRUSTED], 10.0, "it is held (lmctl trust, then lmctl apply lifts that)", id="untrusted"),
        pytest.param([UNTRUSTED, HOLD], 10.0, "it is held (lmctl start lifts that)", id="untrusted-and-stopped"),
        pytest.param([HOLD, CLEAR], 10.0, 1, id="hold-lifted"),
    ],
)
def test_starts_are_counted_within_ten_minutes_of_one_boot(
    records: list[launch.Record], now: float, answer: int | str
) -> None:
    assert launch.verdict(records, now) == answer


def test_F75_each_start_of_a_series_waits_longer() -> None:
    assert [launch.pause(n) for n in range(1, 6)] == [0, 1, 2, 4, 8]


@pytest.mark.parametrize("keep", [True, False], ids=["keeping-the-hold", "lifting-the-hold"])
def test_a_new_series_remembers_the_last_start_but_does_not_count_it(keep: bool) -> None:
    records = launch.cleared([*starts(1, 2), HOLD], keep_hold=keep)
    assert (launch.last_start(records), launch.count(records, 3.0)) == (starts(2)[0], 0)
    assert launch.held(records) is keep


@pytest.mark.parametrize(
    ("records", "for_want_of_trust"),
    [([], False), ([HOLD], False), ([UNTRUSTED], True), ([UNTRUSTED, HOLD], False), ([HOLD, CLEAR, UNTRUSTED], True)],
)
def test_a_hold_keeps_its_reason_in_a_new_series(records: list[launch.Record], for_want_of_trust: bool) -> None:
    assert launch.untrusted(records) is for_want_of_trust
    assert launch.untrusted(launch.cleared(records, keep_hold=True)) is for_want_of_trust


def test_every_reason_of_a_hold_is_noted_once() -> None:
    records: list[launch.Record] = []
    for reason in (launch.UNTRUSTED, launch.UNTRUSTED, True, True):
        records = launch.with_hold(records, reason)
    assert records == [UNTRUSTED, HOLD]


def test_lines_that_a_crash_left_torn_are_skipped() -> None:
    good = launch.render(starts(1))
    assert launch.parse(good + b'{"at": 2.0, "pi\n' + b"\xff\0\n[1]\n" + b"[" * 9999 + b"\n" + good) == starts(1, 1)


def test_updates_of_the_records_keep_what_others_wrote(tmp_path: Path) -> None:
    path = str(tmp_path / ID)
    for at in (1.0, 2.0):
        launch.update(path, lambda records, at=at: [*records, *starts(at)])
    launch.update(path, launch.cleared)
    assert launch.read_starts(path) == [*starts(2), CLEAR]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_each_start_is_recorded_with_its_pid_and_hash(tmp_path: Path) -> None:
    done = run(state(tmp_path, ["{python}", "-c", "import os; print(os.getpid())"], hash="abc"))
    (record,) = launch.read_starts(str(tmp_path / "starts" / ID))
    assert (record["pid"], record["hash"]) == (int(done.stdout), "abc")
    assert isinstance(record["at"], float) and 0 <= launch.clock() - record["at"] < 60


def test_F75_the_sixth_start_ends_with_75_and_runs_nothing(tmp_path: Path) -> None:
    state(tmp_path, ["touch", "ran"])
    now = launch.clock()
    launch.update(str(tmp_path / "starts" / ID), lambda _: starts(*[now] * 5))
    done = run(tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (75, 1)
    assert b"5 starts within 10 minutes" in done.stderr and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("groups", "events", "count"),
    [
        pytest.param(
            "0::/a/b\n", {"a/b/memory.events": "low 0\noom 9\noom_kill 3\noom_group_kill 1\n"}, 4, id="F75-v2"
        ),
        pytest.param("0::/a\n", {"memory.events": "oom_kill 2\n"}, 2, id="F75-v2-in-a-container"),
        pytest.param(
            "7:cpu,memory:/a\n0::/\n",
            {"memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"},
            5,
            id="F75-v1",
        ),
        pytest.param("0::/a\n", {}, None, id="not-told"),
        pytest.param("0::/a\n", {"a/memory.events": "oom_kill many\n"}, None, id="not-a-number"),
        pytest.param(None, {"memory.events": "oom_kill 2\n"}, None, id="no-control-groups"),
    ],
)
def test_the_kernel_s_count_of_those_that_memory_ran_out_for(
    tmp_path: Path, groups: str | None, events: Mapping[str, str], count: int | None
) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    if groups is not None:
        (tmp_path / "proc/7/cgroup").write_text(groups)
    for name, text in events.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert launch.oom_kills(7, f"{tmp_path}/") == count


def test_F75_the_count_is_recorded_with_each_start(tmp_path: Path) -> None:
    run(state(tmp_path, ["true"]))
    (record,) = launch.read_starts(str(tmp_path / "starts" / ID))
    assert record["oom"] == launch.oom_kills()


def test_sigterm_ends_a_pause_at_once(tmp_path: Path) -> None:
    state(tmp_path, ["touch", "ran"])
    now = launch.clock()
    launch.update(str(tmp_path / "starts" / ID), lambda _: starts(*[now] * 4))
    command = [sys.executable, "-P", "-m", "lmctl.launch", ID]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"waits 8 s" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=60) == -15
    assert not (tmp_path / "ran").exists()


def test_the_environment_is_built_from_nothing(tmp_path: Path) -> None:
    kept = {"HOME": "/h", "USER": "u", "PATH": os.environ["PATH"], "LANG": "C", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    kept |= {"TMPDIR": "/t", "SSL_CERT_FILE": "/c", "CUDA_VISIBLE_DEVICES": "0", "HIP_X": "1", "ROCR_X": "2"}
    dropped = ("HF_TOKEN", "LLAMA_ARG_HOST", "VLLM_X", "LD_LIBRARY_PATH", "SUPERVISOR_ENABLED", "http_proxy", "LMCTL_X")
    state(tmp_path, ["env", "-0"], env={"TZ": "Asia/Tokyo", "MINE": "a\nb"}, hash="abc")
    done = run(tmp_path, {**kept, **dict.fromkeys(dropped, "x")})
    seen = dict(line.split("=", 1) for line in done.stdout.decode().split("\0")[:-1])
    assert seen == {**kept, "TZ": "Asia/Tokyo", "MINE": "a\nb", "LMCTL_HASH": "abc"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_signals_that_python_ignores_are_not_ignored_by_the_program(tmp_path: Path) -> None:
    done = run(state(tmp_path, ["cat", "/proc/self/status"]))
    ignored = next(line for line in done.stdout.splitlines() if line.startswith(b"SigIgn"))
    assert int(ignored.split()[1], 16) == 0


_SHOW = "import os, sys; print(*(os.fsencode(arg).hex() for arg in (*sys.argv[1:], os.getcwd(), os.environ['X'])))"
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("\n\r%;#'\"\udcff"))


@given(args=st.lists(_TEXT, max_size=20), value=_TEXT)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_F72_argv_and_environment_arrive_byte_by_byte(tmp_path: Path, args: list[str], value: str) -> None:
    (tmp_path / "starts" / ID).unlink(missing_ok=True)
    done = run(state(tmp_path, ["{python}", "-c", _SHOW, *args], env={"X": value}))
    wanted = [os.fsencode(text).hex() for text in (*args, str(tmp_path), value)]
    assert done.stdout.decode().rstrip("\n").split(" ") == wanted, done.stderr


def spoil_mode(path: Path) -> None:
    path.chmod(0o644)


def spoil_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def spoil_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (Path.unlink, b"No such file"),
        (spoil_mode, b"only its owner"),
        (spoil_link, b"symbolic link"),
        (spoil_fifo, b"not a regular file"),
        (lambda path: path.write_bytes(b"x" * (1 << 20) + b"x"), b"too large"),
        (lambda path: path.write_bytes(b"{"), b"Expecting"),
        (lambda path: path.write_bytes(b"\xff"), b"decode"),
        (lambda path: path.write_bytes(b"[" * 100000), b"nested"),
        (lambda path: path.write_bytes(b"[]"), b"schema 1"),
    ],
    ids=["missing", "mode", "link", "fifo", "large", "torn", "encoding", "deep", "list"],
)
def test_a_program_file_that_lmctl_did_not_write_is_refused(tmp_path: Path, spoil: object, why: bytes) -> None:
    state(tmp_path, ["touch", "ran"])
    assert callable(spoil)
    spoil(tmp_path / "programs" / f"{ID}.json")
    done = run(tmp_path)
    assert (done.returncode, done.stderr.count(b"\n"), (tmp_path / "ran").exists()) == (75, 1, False)
    assert why in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema": 2}, b"schema 1"),
        ({"id": "p-ba9876543210"}, b"another program"),
        ({"argv": []}, b"lacks argv"),
        ({"argv": "sh"}, b"lacks argv"),
        ({"argv": ["/bin/sh", 3]}, b"lacks argv"),
        ({"env": {"A": 1}}, b"lacks argv"),
        ({"inherit": ["A", 1]}, b"lacks argv"),
        ({"hash": None}, b"lacks argv"),
        ({"cwd": "/nowhere"}, b"/nowhere"),
        ({"argv": ["/nowhere/engine"]}, b"No such file"),
        ({"argv": ["/etc/passwd"]}, b"Permission denied"),
        ({"argv": ["touch", "a\0b"]}, b"null byte"),
        ({"argv": ["touch", "\ud800"]}, b"surrogates"),
        ({"env": {"A=B": "c"}}, b"illegal environment"),
    ],
    ids=lambda value: ascii(value) if isinstance(value, dict) else "",
)
def test_F80_a_program_that_cannot_be_started_ends_with_75_and_one_line(
    tmp_path: Path, changes: dict[str, object], why: bytes
) -> None:
    done = run(state(tmp_path, **{"argv": ["true"], **changes}))  # type: ignore[arg-type]
    assert (done.returncode, done.stderr.count(b"\n")) == (75, 1)
    assert why in done.stderr


@pytest.mark.parametrize("argv", [[], ["a", "b"], ["../../etc/x"], ["p-\n"]], ids=ascii)
def test_the_argument_must_be_an_id(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(argv) == 75
    assert "not one that lmctl gives" in capsys.readouterr().err


def test_the_launcher_imports_nothing_slow() -> None:
    code = "import sys, lmctl.launch; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"argparse", "dataclasses", "pathlib", "subprocess", "lmctl.errors", "typing"} & set(loaded)


def test_what_is_inherited_is_on_a_list() -> None:
    kept = {
        "HOME": "/h",
        "PATH": "/bin",
        "LC_ALL": "C",
        "SSL_CERT_FILE": "/c",
        "CUDA_VISIBLE_DEVICES": "0",
        "HIP_X": "1",
    }
    others = ("HF_TOKEN", "LD_PRELOAD", "PYTHONPATH", "LLAMA_ARG_HOST", "VLLM_X", "https_proxy", "AWS_SECRET", "A")
    assert launch.inherited({**kept, **dict.fromkeys(others, "x")}) == kept
    named = launch.inherited({**kept, **dict.fromkeys(others, "x")}, ["HF_TOKEN", "NOT_THERE"])
    assert named == {**kept, "HF_TOKEN": "x"}


def test_a_program_gets_the_variables_that_its_file_names_where_they_are(tmp_path: Path) -> None:
    code = "import os; print(*(os.environ.get(name) for name in ('NAMED', 'ABSENT', 'OTHER')))"
    argv = [sys.executable, "-c", code]
    environ = {"PATH": os.environ["PATH"], "NAMED": "a key", "OTHER": "x"}
    done = run(state(tmp_path, argv, inherit=["NAMED", "ABSENT"]), environ)
    assert done.stdout == b"a key None None\n"
