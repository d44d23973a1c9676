"""Where things live, and files that are old or new and never half."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kinds import own_files

from lmctl.errors import LmctlError
from lmctl.paths import Folders, make_private, read_regular, remove_left, write_atomic

HOME = Path("/home/me")


def test_folders_follow_xdg_and_the_hugging_face_variables():
    usual = Folders.of({}, HOME)
    assert (usual.config, usual.state) == (HOME / ".config/lmctl", HOME / ".local/state/lmctl")
    assert (usual.cache, usual.hub) == (HOME / ".cache/lmctl", HOME / ".cache/huggingface/hub")
    assert usual.declaration("team") == HOME / ".local/state/lmctl/team"


@pytest.mark.parametrize(
    ("environ", "field", "path"),
    [
        ({"XDG_STATE_HOME": "/s"}, "state", "/s/lmctl"),
        ({"XDG_STATE_HOME": "relative"}, "state", "/home/me/.local/state/lmctl"),
        ({"XDG_CONFIG_HOME": "/c"}, "config", "/c/lmctl"),
        ({"XDG_CACHE_HOME": "/c"}, "hub", "/c/huggingface/hub"),
        ({"HF_HOME": "/h"}, "hub", "/h/hub"),
        ({"HF_HOME": "~/h"}, "hf_home", "/home/me/h"),
        ({"HF_HOME": "$HOME/h"}, "hf_home", "/home/me/h"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/elsewhere"}, "hub", "/elsewhere"),
        ({"HF_HUB_CACHE": "~"}, "hub", "/home/me"),
        ({"HF_HOME": ""}, "hf_home", "/home/me/.cache/huggingface"),
    ],
)
def test_the_environment_moves_folders(environ, field, path):
    assert getattr(Folders.of(environ, HOME), field) == Path(path)


def refusal(path: Path, limit: int = 100) -> str:
    with pytest.raises(LmctlError) as caught:
        read_regular(path, limit)
    return caught.value.code


def test_I14_only_regular_files_are_read_and_nothing_blocks(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)
        listening.bind("socket")
        for path in (tmp_path, tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), tmp_path / "none"):
            assert refusal(path) == "E-FILE", path


def test_I13_a_file_is_read_up_to_its_limit(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    assert read_regular(file, 100) == b"x" * 100
    assert refusal(file, 99) == "E-LIMIT"


def test_folders_are_private(tmp_path):
    folder = make_private(tmp_path / "a/b")
    assert [part.stat().st_mode & 0o777 for part in (folder, folder.parent)] == [0o700, 0o700]
    assert make_private(folder) == folder
    (tmp_path / "file").touch()
    with pytest.raises(LmctlError) as caught:
        make_private(tmp_path / "file/below")
    assert caught.value.code == "E-IO"


@pytest.mark.parametrize(
    ("place", "fix"),
    [("none/file", "make its folder first"), ("file/below", "choose another place"), ("folder", "name a file")],
)
def test_a_place_where_no_file_can_be_written_is_told_with_what_can(tmp_path, place, fix):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(LmctlError) as caught:
        write_atomic(tmp_path / place, b"x")
    (problem,) = caught.value.problems
    assert (problem.code, problem.fix) == ("E-IO", fix)


def test_a_file_is_replaced_with_its_mode(tmp_path):
    file = tmp_path / "file"
    write_atomic(file, b"one")
    write_atomic(file, b"two", 0o644)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"two", 0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    file = tmp_path / ("n" * 255)
    write_atomic(file, b"x")
    assert file.read_bytes() == b"x"


@pytest.mark.parametrize("call", ["fsync", "replace"], ids=["F1-before-fsync", "F1-before-rename"])
def test_a_killed_writer_leaves_the_old_file(tmp_path, call):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from lmctl.paths import write_atomic\n"
        "die = lambda *_: os.kill(os.getpid(), 9)\n"
        f"{'os.fsync' if call == 'fsync' else 'Path.replace'} = die\n"
        "write_atomic(Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file], "what it left half written is gone"


@pytest.fixture
def dead() -> int:
    """The pid of a process that is gone."""
    with subprocess.Popen(["true"]) as gone:
        return gone.pid


def test_F1_a_write_removes_what_is_left_of_the_same_file_alone(tmp_path, dead):
    long = "n" * 255
    ours = [tmp_path / f".{name}.{dead}.tmp" for name in ("file", long[:200])]
    others = [tmp_path / name for name in (f".other.{dead}.tmp", f"file.{dead}.tmp", ".file.x.tmp", f".file.{dead}")]
    for path in (*ours, *others):
        path.write_text("half")
    write_atomic(tmp_path / "file", b"x")
    write_atomic(tmp_path / long, b"x")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", tmp_path / long, *others])
    remove_left(tmp_path)
    assert not others[0].exists()
    assert all(path.exists() for path in others[1:])


def test_what_a_live_writer_has_begun_is_never_removed(tmp_path, dead):
    living = [tmp_path / f".file.{pid}.tmp" for pid in (os.getpid(), os.getppid(), 1)]
    elsewhere = tmp_path / f".file.{dead}.tmp"  # a writer whose pid means nothing here holds its lock all the same
    for path in (*living, elsewhere):
        path.write_text("half")
    with elsewhere.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_left(tmp_path)
        assert all(path.exists() for path in (*living, elsewhere))
    remove_left(tmp_path)
    assert [path.exists() for path in (*living, elsewhere)] == [True, True, True, False]


def test_a_link_or_a_folder_that_looks_left_behind_stays(tmp_path, dead):
    target = tmp_path / "precious"
    target.write_text("keep")
    (tmp_path / f".link.{dead}.tmp").symlink_to(target)
    (tmp_path / f".folder.{dead}.tmp").mkdir()
    before = sorted(tmp_path.iterdir())
    remove_left(tmp_path)
    remove_left(tmp_path / "nowhere")
    assert sorted(tmp_path.iterdir()) == before


def test_F5_a_file_beyond_the_limit_of_the_user_leaves_the_old_one(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    code = (
        "import sys; from pathlib import Path; from lmctl.errors import LmctlError\n"
        "from lmctl.paths import write_atomic\n"
        "try:\n    write_atomic(Path(sys.argv[1]), b'x' * 100_000)\n"
        "except LmctlError as error:\n    print(error.code, error.exit_code)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, preexec_fn=limit)
    assert done.stdout == "E-SPACE 8\n"
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.needs("tmpfs")
def test_F4_a_full_disk_leaves_the_old_file(tmp_path):
    code = (
        "from pathlib import Path; from lmctl.errors import LmctlError\n"
        "from lmctl.paths import write_atomic\n"
        "file = Path('file').absolute()\n"
        "write_atomic(file, b'old')\n"
        "try:\n    write_atomic(file, b'x' * 1_000_000)\n"
        "except LmctlError as error:\n    print(error, file.read_bytes())\n"
        "write_atomic(file, b'new')\n"
        "print(file.read_bytes(), *file.parent.iterdir())\n"
    )
    with own_files(f"mount -t tmpfs -o size=64k none {tmp_path}", tmp_path) as before:
        done = subprocess.run([*before, sys.executable, "-c", code], capture_output=True, text=True)
    file = tmp_path / "file"
    full = f"error[E-SPACE]: {file} cannot be written: No space left on device; 976.6 KiB are needed, 60.0 KiB are free"
    assert done.stdout == f"{full} — free some space and run it again b'old'\nb'new' {file}\n"


def test_a_link_planted_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"keep")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(target)
    with pytest.raises(LmctlError):
        write_atomic(tmp_path / "file", b"new")
    assert target.read_bytes() == b"keep"


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(LmctlError, match="is not a regular file"):
        write_atomic(pipe, b"new")
    assert (pipe.is_fifo(), [path.name for path in tmp_path.iterdir()]) == (True, ["pipe"])


@pytest.mark.parametrize("known", [True, False], ids=["macOS", "a-file-system-without-it"])
def test_what_is_synced_on_macos_leaves_the_drive_s_own_memory(monkeypatch, tmp_path, known):
    asked: list[object] = []

    def control(descriptor: int, command: int) -> int:
        asked.append(command)
        if not known:
            raise OSError(errno.ENOTSUP, "not supported")
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("fsync"))
    write_atomic(tmp_path / "x", b"content")
    assert asked == ([51, 51] if known else [51, "fsync", 51, "fsync"])
