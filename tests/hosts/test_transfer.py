"""Files come from the Hub into the Hugging Face cache, whole, verified, resumed and where other tools find them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from downloads import none, nothing
from hub import MIB, Hub, Pattern

from lmctl.errors import LmctlError
from lmctl.host import Fetch, Fetched, Progress
from lmctl.hosts import placing
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.journal import LOSS, Partial, finished
from lmctl.hosts.limits import Limits, Rate
from lmctl.hosts.transfer import HubTransfer

MODEL = Pattern(70 * MIB)
FILES = {"model.gguf": b"GGUF" * 50_000, "config.json": b"{}", "sub/tokenizer.json": b"[1]", "empty.txt": b""}
DOWNLOAD = """
import sys, json
from pathlib import Path
from lmctl.host import Fetch
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.limits import Limits
from lmctl.hosts.transfer import HubTransfer
from lmctl.spec import LockedFile
url, folder, repo, commit, path, size, sha256 = sys.argv[1:]
transfer = HubTransfer(Endpoint(url), Path(folder) / "hub", Path(folder) / "lmctl", Limits(connections=2))
fetch = Fetch(repo, "main", commit, LockedFile(path, "weights", int(size), sha256))
(fetched,) = transfer.fetch([fetch], lambda progress: print(progress.done, flush=True), lambda fetched: None)
sys.exit(str(fetched.error) if fetched.error else 0)
"""


def asked_bytes(hub: Hub) -> int:
    """Return how many bytes all requests so far asked for."""
    total = 0
    for request in hub.asked("/resolve/", "GET"):
        start, end = request.headers["range"].removeprefix("bytes=").split("-")
        total += int(end) - int(start) + 1
    return total


def tools_agree(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path, repo: str, paths: list[str]) -> None:
    """Assert that huggingface_hub takes the cache for its own, with no warning and no request for a file."""
    from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

    info = scan_cache_dir(cache)
    assert [one.repo_id for one in info.repos] == [repo]
    assert not info.warnings
    for path in paths:
        found = hf_hub_download(repo, path, cache_dir=cache, local_files_only=True)
        assert Path(found).read_bytes() == b"".join(map(bytes, hub.file(repo, path).read(0, 1 << 40)))
    folder = snapshot_download(repo, cache_dir=cache, local_files_only=True)
    assert {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()} == set(paths)


def test_fetched_files_lie_in_the_cache_as_huggingface_hub_lays_them(hub, transfer, want, tmp_path, monkeypatch):
    commit = hub.add("owner/name", FILES)
    seen: list[Progress] = []
    verified: list[Fetched] = []
    done = transfer().fetch([want("owner/name", path) for path in FILES], seen.append, verified.append)
    assert set(verified) == set(done)
    assert [one.error for one in done] == [None] * 4
    link = tmp_path / "hub/models--owner--name/snapshots" / commit / "sub/tokenizer.json"
    assert str(link.readlink()) == f"../../../blobs/{hub.file('owner/name', 'sub/tokenizer.json').blob}"
    assert (tmp_path / "hub/models--owner--name/refs/main").read_text() == commit
    tools_agree(monkeypatch, hub, tmp_path / "hub", "owner/name", list(FILES))
    assert [p.done for p in seen if (p.path, p.phase) == ("model.gguf", "done")] == [200_000]
    assert not list((tmp_path / "lmctl/partial").iterdir())
    for one in done:
        status = one.blob.stat()
        assert (one.signature.size, one.signature.inode) == (status.st_size, status.st_ino)


def test_hf_lists_and_verifies_the_cache_and_resolves_nothing_anew(hub, transfer, want, tmp_path, home):
    hub.add("owner/name", FILES)
    transfer().fetch([want("owner/name", path) for path in FILES], nothing, none)
    hf = str(Path(sys.executable).with_name("hf"))
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(home)}
    for command, expected in (("ls", "owner/name"), ("verify owner/name", "Verified 4 file(s)")):
        ran = subprocess.run([hf, "cache", *command.split()], env=environ, capture_output=True, text=True, timeout=60)
        assert (ran.returncode, expected in ran.stdout + ran.stderr) == (0, True), ran.stdout + ran.stderr


def test_the_blob_has_the_mode_that_the_umask_gives(hub, transfer, want):
    hub.add("o/n", FILES)
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    umask = os.umask(0)
    os.umask(umask)
    assert done.blob.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_second_fetch_asks_nothing_of_the_hub(hub, transfer, want):
    hub.add("o/n", FILES)
    transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    before = len(hub.requests)
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    assert (done.error, len(hub.requests)) == (None, before)


def test_a_verified_file_is_told_of_before_it_has_its_place(hub, transfer, want):
    hub.add("o/n", FILES)
    places = []
    tell = lambda one: places.append((one, one.blob.exists()))  # noqa: E731
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, tell)
    transfer().fetch([want("o/n", "model.gguf")], nothing, tell)
    assert places == [(done, False)]  # and of one that was there already, nothing


def test_a_file_that_cannot_be_recorded_gets_no_place_and_is_not_fetched_again(hub, transfer, want, tmp_path):
    hub.add("o/n", FILES)

    def refuse(fetched: Fetched) -> None:
        raise LmctlError("E-STATE", "the ledger is broken")

    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, refuse)
    assert (done.error.code, placing.blob_path(tmp_path / "hub", done.fetch).exists()) == ("E-STATE", False)
    (again,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    assert (again.error, len(hub.asked("model.gguf"))) == (None, 1)


def test_a_new_commit_of_the_same_content_is_linked_and_the_ref_of_others_stays(hub, transfer, want, tmp_path):
    old = hub.add("o/n", {"model.gguf": b"GGUF"})
    transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    new = hub.add("o/n", {"model.gguf": b"GGUF", "more.txt": b""})
    before = len(hub.requests)
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    folder = tmp_path / "hub/models--o--n"
    assert (done.error, len(hub.requests)) == (None, before)
    assert (folder / "snapshots" / new / "model.gguf").read_bytes() == b"GGUF"
    assert (folder / "refs/main").read_text() == old


def test_a_ref_that_leads_nowhere_is_mended(hub, transfer, want, tmp_path):
    commit = hub.add("o/n", FILES, revision="refs/pr/1")
    ref = tmp_path / "hub/models--o--n/refs/refs/pr/1"
    ref.parent.mkdir(parents=True)
    ref.write_text("0" * 40)
    transfer().fetch([want("o/n", "config.json", "refs/pr/1")], nothing, none)
    assert ref.read_text() == commit


def test_a_blob_of_another_tool_with_wrong_bytes_is_replaced(hub, transfer, want, tmp_path):
    hub.add("o/n", FILES)
    fetch = want("o/n", "model.gguf")
    blob = placing.blob_path(tmp_path / "hub", fetch)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 200_000)
    (done,) = transfer().fetch([fetch], nothing, none)
    assert (done.error, blob.read_bytes()) == (None, FILES["model.gguf"])


def test_a_large_file_comes_over_several_connections_in_ranges(hub, transfer, want):
    hub.add("o/n", {"model.gguf": MODEL})
    hub.fault("o/n", rate=60e6)
    (done,) = transfer(span=4 * MIB).fetch([want("o/n", "model.gguf")], nothing, none)
    assert done.error is None
    assert asked_bytes(hub) == MODEL.size
    ports = {request.headers["range"] for request in hub.asked("/resolve/")}
    assert len(ports) == 18


def test_the_rate_is_shared_by_all(monkeypatch):
    clock, stop = [0.0], threading.Event()
    monkeypatch.setattr("lmctl.hosts.limits.time.monotonic", lambda: clock[0])
    slept: list[float] = []
    monkeypatch.setattr(stop, "wait", lambda seconds: slept.append(seconds))
    rate = Rate(1000)
    for _ in range(4):
        rate.take(500, stop)
    assert slept[-1] == pytest.approx(2.0, abs=0.11)


def download(hub: Hub, folder: Path, fetch: Fetch) -> subprocess.Popen[str]:
    argv = [hub.url, folder, fetch.repo, fetch.commit, fetch.file.path, fetch.file.size, fetch.file.sha256]
    return subprocess.Popen([sys.executable, "-c", DOWNLOAD, *map(str, argv)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["F08-kill", "F08-term", "F07-int"]
)
def test_a_killed_download_is_resumed_and_loses_at_most_16_mib(hub, want, tmp_path, kill):
    hub.add("o/n", {"model.gguf": MODEL})
    held = hub.fault("o/n", stall=31 * MIB)  # of each range, so that it never ends by itself
    fetch = want("o/n", "model.gguf")
    with download(hub, tmp_path, fetch) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) > 30 * MIB:
                break
        process.send_signal(kill)
        process.communicate(timeout=60)
    partial = tmp_path / "lmctl/partial" / fetch.file.sha256
    kept = sum(end - start for start, end in finished(partial, MODEL.size))
    there = int(line)
    assert kept >= there - LOSS
    held.stall = None
    hub.requests.clear()
    (done,) = HubTransfer(Endpoint(hub.url), tmp_path / "hub", tmp_path / "lmctl").fetch([fetch], nothing, none)
    assert done.error is None
    assert asked_bytes(hub) == MODEL.size - kept


def test_the_wish_to_stop_ends_a_download_soon_and_keeps_what_came(hub, want, tmp_path):
    hub.add("o/n", {"model.gguf": MODEL})
    hub.fault("o/n", stall=20 * MIB)
    stop = threading.Event()
    transfer = HubTransfer(Endpoint(hub.url), tmp_path / "hub", tmp_path / "lmctl", Limits(connections=1), stop=stop)

    phases: set[str] = set()

    def tell(progress: Progress) -> None:
        phases.add(progress.phase)
        if progress.done == 20 * MIB:
            stop.set()

    (done,) = transfer.fetch([want("o/n", "model.gguf")], tell, none)
    assert str(done.error) == (
        "error[E-INTERRUPTED]: model.gguf is not finished — run it again: it goes on where it was interrupted"
    )
    assert "failed" not in phases
    held = finished(tmp_path / "lmctl/partial" / MODEL.sha256(), MODEL.size)
    assert held == ((0, 20 * MIB),)


def test_F53_too_little_room_is_refused_with_the_table_of_needs(hub, want, tmp_path):
    hub.add("o/n", {"model.gguf": MODEL, "config.json": b"{}"})
    free = [int(MODEL.size * 1.05)]
    own = tmp_path / "lmctl"
    transfer = HubTransfer(Endpoint(hub.url), tmp_path / "hub", own, free=lambda folder: free[0])
    fetches = [want("o/n", "model.gguf"), want("o/n", "config.json")]
    with pytest.raises(LmctlError) as error:
        transfer.room(fetches)
    assert (error.value.code, "70.0 MiB  model.gguf" in str(error.value)) == ("E-SPACE", True)
    partial = Partial.open(own / "partial", fetches[0].file.sha256, MODEL.size)
    partial.write(0, b"x" * MIB, threading.Event())
    partial.save()
    partial.close()
    transfer.room(fetches)  # what came before needs no room again
    assert json.loads(partial.journal.read_text())["written"] == [[0, MIB]]


def test_partial_files_on_another_file_system_are_refused(hub, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system")
    transfer = HubTransfer(Endpoint(hub.url), tmp_path / "hub", other / "lmctl-nothing")
    with pytest.raises(LmctlError) as error:
        transfer.room([])
    assert error.value.code == "E-IO"
