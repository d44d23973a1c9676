"""A Hub that misbehaves: every fault ends in verified bytes or in one clear error, and in nothing half."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from downloads import BIG, DATA, PARTS, TOKEN, none, nothing
from hub import MIB

from lmctl.host import Fetched

HASTY = {"stall": 0.4, "tries": 50}  # a busy machine may take a healthy answer for another stall


def held(folder: Path) -> list[str]:
    """Return what lies in the cache by its final names."""
    return [str(path) for path in (folder / "hub").rglob("*") if path.is_file() or path.is_symlink()]


@pytest.mark.parametrize(
    ("path", "limits", "fault"),
    [
        pytest.param("model.gguf", {}, {"cut": 90_000, "times": 1}, id="F34-truncated-once"),
        pytest.param("model.gguf", {}, {"cut": 50_000, "times": 4}, id="F34-truncated-four-times"),
        pytest.param("big.gguf", PARTS, {"cut": 90_000, "times": 3}, id="F34-truncated-parts"),
        pytest.param("model.gguf", {}, {"cut": 0, "times": 1}, id="F34-nothing"),
        pytest.param("model.gguf", {}, {"encoding": "chunked"}, id="F37-chunked"),
        pytest.param("big.gguf", PARTS, {"encoding": "chunked"}, id="F37-chunked-parts"),
        pytest.param("model.gguf", {}, {"encoding": "none"}, id="F37-no-length"),
        pytest.param("model.gguf", {}, {"encoding": "gzip"}, id="F37-gzip"),
        pytest.param("model.gguf", {}, {"encoding": "long", "times": 1}, id="F37-length-too-long"),
        pytest.param("model.gguf", {}, {"headers": {"Content-Length": "1000"}, "times": 1}, id="F37-length-too-short"),
        pytest.param("model.gguf", {}, {"status": 503, "times": 2}, id="F40-503-twice"),
        pytest.param("model.gguf", {}, {"status": 500, "times": 4}, id="F40-500-four-times"),
        pytest.param("big.gguf", PARTS, {"ranges": "ignore"}, id="F42-200-instead-of-206"),
        pytest.param("big.gguf", PARTS, {"ranges": "wrong", "times": 1}, id="F42-wrong-content-range"),
        pytest.param("big.gguf", PARTS, {"ranges": "refuse", "skip": 1, "times": 1}, id="F42-416"),
        pytest.param(
            "big.gguf", PARTS, {"headers": {"ETag": f'"{"a" * 64}"'}, "skip": 1, "times": 1}, id="F42-etag-changed"
        ),
        pytest.param("model.gguf", HASTY, {"stall": 180_000, "times": 1}, id="F46-stall-after-90-percent"),
        pytest.param("model.gguf", HASTY, {"stall": 0, "times": 1}, id="F46-headers-then-nothing"),
        pytest.param("model.gguf", {**HASTY, "trickle": 10_000}, {"rate": 100.0, "times": 1}, id="F46-slow-loris"),
    ],
)
def test_what_passes_is_survived(repo, transfer, want, path, limits, fault):
    repo.fault("o/n", path, **fault)
    (done,) = transfer(**limits).fetch([want("o/n", path)], nothing, none)
    assert done.error is None
    assert hashlib.sha256(done.blob.read_bytes()).hexdigest() == done.fetch.file.sha256


FOREVER = [
    pytest.param({"cut": 1000}, "E-NETWORK", "broke the connection", id="F34-always-truncated"),
    pytest.param({"encoding": "endless"}, "E-HUB", "sends more than the 204800 bytes", id="F38-endless"),
    pytest.param({"encoding": "bomb"}, "E-HUB", "sends more than the 204800 bytes", id="F38-gzip-bomb"),
    pytest.param({"status": 500}, "E-HUB", "answered 500", id="F40-500"),
    pytest.param({"status": 502}, "E-HUB", "answered 502", id="F40-502"),
    pytest.param({"status": 503}, "E-HUB", "answered 503", id="F40-503"),
    pytest.param({"status": 504}, "E-HUB", "answered 504", id="F40-504"),
    pytest.param({"status": 401}, "E-AUTH", "does not accept the token", id="F41-401"),
    pytest.param(
        {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "E-GATED", "ask for access at", id="F41-403-gated"
    ),
    pytest.param({"status": 403}, "E-AUTH", "may not read o/n", id="F41-403"),
    pytest.param(
        {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}},
        "E-MISSING",
        "o/n does not exist",
        id="F41-404-repo",
    ),
    pytest.param(
        {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
        "E-MISSING",
        "has no file model.gguf",
        id="F48-listed-then-404",
    ),
    pytest.param(
        {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}},
        "E-MISSING",
        "has no revision",
        id="F41-404-revision",
    ),
    pytest.param({"status": 410}, "E-MISSING", "was removed", id="F41-410"),
    pytest.param({"status": 451}, "E-MISSING", "legal reasons", id="F41-451"),
    pytest.param({"redirect": "http://192.0.2.1/x"}, "E-HUB", "does not follow", id="F43-http"),
    pytest.param({"redirect": "file:///etc/passwd"}, "E-HUB", "does not follow", id="F43-file"),
    pytest.param({"redirect": "http://169.254.169.254/latest"}, "E-HUB", "does not follow", id="F43-metadata"),
    pytest.param({"redirect": "{path}"}, "E-HUB", "redirects more than 5 times", id="F43-loop"),
    pytest.param({"headers": {"ETag": "../../x", "X-Linked-Etag": None}}, "E-HUB", "etag", id="F44-etag"),
    pytest.param({"headers": {"X-Repo-Commit": "../../x"}}, "E-HUB", "commit", id="F44-commit"),
    pytest.param({"headers": {"X-Repo-Commit": "f" * 40}}, "E-HUB", "with commit ffff", id="I113-another-commit"),
    pytest.param(
        {"body": b"<html>log in</html>", "headers": {"Content-Type": "text/html"}},
        "E-HUB",
        "not a Hugging Face endpoint",
        id="F45-captive-portal",
    ),
    pytest.param({"headers": {"ETag": None, "X-Linked-Etag": None}}, "E-HUB", "etag", id="I112-missing"),
    pytest.param({"headers": {"X-Linked-Etag": '"abcde"'}}, "E-HUB", "etag", id="I112-short"),
    pytest.param({"headers": {"X-Linked-Etag": "a" * 4096}}, "E-HUB", "etag", id="I112-4-KiB"),
    pytest.param({"headers": {"X-Linked-Etag": f'W/"{"a" * 64}"'}}, "E-HUB", "etag", id="I112-weak"),
    pytest.param({"headers": {"X-Linked-Etag": f'"{"a" * 64}'}}, "E-HUB", "etag", id="I112-quotes"),
    pytest.param({"headers": {"X-Repo-Commit": None}}, "E-HUB", "commit", id="I113-missing"),
    pytest.param({"headers": {"X-Repo-Commit": "main"}}, "E-HUB", "commit", id="I113-main"),
    pytest.param(
        {"status": 400, "body": b"\x1b[31m" + b"x" * (10 << 20)}, "E-HUB", "answered 400", id="I115-large-error-body"
    ),
    pytest.param(
        {"status": 400, "headers": {"X-Error-Message": "a\x1b[31mb" + "x" * 5000}}, "E-HUB", "\\x1b[31mb", id="I116-esc"
    ),
    pytest.param({"headers": {"X-Junk": "x" * (1 << 20)}}, "E-HUB", "oversized headers", id="I118-1-MB-header"),
    pytest.param(
        {"headers": {f"X-Junk-{i}": "x" for i in range(10_000)}}, "E-HUB", "oversized headers", id="I118-10k-headers"
    ),
    pytest.param(
        {"headers": {f"X-J{i}": "x" * 2000 for i in range(50)}}, "E-HUB", "oversized headers", id="I118-100-KB"
    ),
    pytest.param({"raw": b"\0\1\2 nonsense\r\n\r\n"}, "E-NETWORK", "broke the connection", id="F45-not-http"),
]


@pytest.mark.parametrize(("fault", "code", "says"), FOREVER)
def test_what_does_not_pass_is_one_error_with_a_next_step_and_nothing_in_the_cache(
    repo, transfer, want, tmp_path, fault, code, says
):
    repo.fault("o/n", "model.gguf", **fault)
    before = sorted(tmp_path.parent.iterdir())
    (done, other) = transfer().fetch([want("o/n", "model.gguf"), want("o/n", "config.json")], nothing, none)
    text = str(done.error)
    assert (done.error.code, done.error.exit_code, says in text) == (code, 7, True), text
    assert done.error.problems[0].fix
    assert len(text) < 700
    assert "\x1b" not in text
    assert TOKEN not in text
    assert (done.blob, done.signature, other.error) == (None, None, None)  # the other file is not kept from coming
    assert [path for path in held(tmp_path) if done.fetch.file.sha256 in path] == []
    assert sorted(tmp_path.parent.iterdir()) == before
    if code in ("E-AUTH", "E-GATED", "E-MISSING"):
        assert len(repo.asked("model.gguf")) == 1


def test_F34_at_most_five_tries(repo, transfer, want, waits):
    repo.fault("o/n", "model.gguf", cut=0)
    transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    assert len(repo.asked("model.gguf")) == 5
    pauses = [seconds for seconds in waits.seconds if seconds]
    assert len(pauses) == 4
    assert sum(pauses) <= 0.5 + 1 + 2 + 4


def test_F35_wrong_bytes_of_the_right_size_are_quarantined(repo, transfer, want, tmp_path):
    repo.fault("o/n", "model.gguf", flip=True)
    fetch = want("o/n", "model.gguf")
    (done,) = transfer().fetch([fetch], nothing, none)
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    assert (done.error.code, done.error.exit_code) == ("E-HASH", 6)
    assert fetch.file.sha256 in str(done.error)
    assert hashlib.sha256(wrong).hexdigest() in str(done.error)
    assert (tmp_path / "lmctl/quarantine" / fetch.file.sha256).read_bytes() == wrong
    assert held(tmp_path) == []
    repo.heal()
    (again,) = transfer().fetch([fetch], nothing, none)
    assert again.error is None


@pytest.mark.parametrize("change", [{"sha256": "b" * 64}, {"size": 5}], ids=["F36-sha256", "F36-size"])
def test_F36_a_file_that_is_not_the_locked_one_any_more(repo, transfer, want, tmp_path, change):
    (done,) = transfer().fetch([want("o/n", "model.gguf", **change)], nothing, none)
    assert (done.error.code, done.error.exit_code) == ("E-UPSTREAM", 6)
    assert "upstream changed; run `lmctl lock --upgrade`" in str(done.error)
    assert held(tmp_path) == []


def test_F42_two_changes_are_an_error(repo, transfer, want):
    repo.fault("o/n", "big.gguf", ranges="wrong")
    repo.fault("o/n", "big.gguf", ranges="ignore", skip=0)
    (first,) = transfer(**PARTS).fetch([want("o/n", "big.gguf")], nothing, none)
    assert first.error is None  # the whole file in one answer, where no range can be wrong
    repo.add("o/m", {"big.gguf": BIG})
    repo.fault("o/m", headers={"Content-Range": "bytes 0-0/1"}, cut=MIB)
    (second,) = transfer(**PARTS).fetch([want("o/m", "big.gguf")], nothing, none)
    assert (second.error.code, "twice alike" in str(second.error)) == ("E-HUB", True)


def test_F54_a_disk_that_fills_up_ends_the_download_at_once(repo, transfer, want, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    assert (done.error.code, done.error.exit_code, len(repo.asked("model.gguf"))) == ("E-SPACE", 8, 1)


def test_F49_one_missing_shard_does_not_keep_the_others(hub, transfer, want):
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("o/s", {name: name.encode() * 1000 for name in names})
    hub.fault("o/s", names[1], status=404, headers={"X-Error-Code": "EntryNotFound"})
    verified: list[Fetched] = []
    done = transfer().fetch([want("o/s", name) for name in names], nothing, verified.append)
    assert {one.fetch.file.path for one in verified} == {names[0], names[2]}
    assert [one.error and one.error.code for one in done] == [None, "E-MISSING", None]
