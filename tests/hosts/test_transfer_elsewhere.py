"""A Hub that sends a download away: to later, to another address, or to nowhere."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from downloads import PARTS, TOKEN, none, nothing
from ports import free_port

from lmctl.host import Progress
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.limits import Limits
from lmctl.hosts.transfer import HubTransfer

AN_HOUR = 3600


def as_header(value: str | int | None) -> str | None:
    """Return a text as it is, a number as the date so many seconds from now."""
    return formatdate(time.time() + value, usegmt=True) if isinstance(value, int) else value


@pytest.mark.parametrize(
    ("value", "waited"),
    [
        pytest.param("2", 2, id="F39-2"),
        pytest.param("-5", 0.5, id="F39-negative"),
        pytest.param("soon; \x7f", 0.5, id="F39-garbage"),
        pytest.param(20, 20, id="F39-date"),
        pytest.param(-20, 0, id="F39-date-that-passed"),
        pytest.param(None, 0.5, id="F39-none"),
    ],
)
def test_F39_a_rate_limit_is_waited_for(repo, transfer, want, waits, value, waited):
    repo.fault("o/n", "model.gguf", status=429, headers={"Retry-After": as_header(value)}, times=1)
    seen: list[Progress] = []
    (done,) = transfer().fetch([want("o/n", "model.gguf")], seen.append, none)
    assert done.error is None
    assert max(waits.seconds) <= max(waited, 0)
    if waited >= 2:
        assert max(waits.seconds) > waited - 10
        assert next(one.note for one in seen if one.phase == "wait").startswith("127.0.0.1 limits the rate")


@pytest.mark.parametrize("value", ["3600", AN_HOUR], ids=["F39-3600", "F39-date"])
def test_F39_a_rate_limit_of_an_hour_is_an_error_that_says_until_when(repo, transfer, want, waits, value):
    repo.fault("o/n", "model.gguf", status=429, headers={"Retry-After": as_header(value)})
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    until = {time.strftime("%H:%M", time.localtime(time.time() + AN_HOUR - back)) for back in (0, 30, 60)}
    assert done.error.code == "E-RATE"
    assert any(f"until {one}" in str(done.error) for one in until)
    assert not any(waits.seconds)


def test_F43_bytes_come_from_elsewhere_without_the_token(repo, transfer, want):
    repo.fault("o/n", "big.gguf", redirect=f"{repo.elsewhere}{{path}}", headers=hub_headers(repo))
    (done,) = transfer(**PARTS).fetch([want("o/n", "big.gguf")], nothing, none)
    assert done.error is None
    sent = {server: {one.headers.get("authorization") for one in repo.requests if one.server == server} for server in
            ("hub", "elsewhere")}  # fmt: skip
    assert sent == {"hub": {f"Bearer {TOKEN}"}, "elsewhere": {None}}


def test_F43_five_redirects_are_followed_and_not_a_sixth(repo, transfer, want):
    repo.fault("o/n", "model.gguf", redirect="{path}")
    (done,) = transfer().fetch([want("o/n", "model.gguf")], nothing, none)
    assert done.error.code == "E-HUB"
    assert len(repo.asked("/resolve/", "GET")) == 6


def hub_headers(repo) -> dict[str, str]:
    """Return what the real Hub says of a file when it redirects to its storage."""
    file = repo.file("o/n", "big.gguf")
    commit = repo.repos["o/n"].refs["main"]
    return {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}


def test_F43_a_hub_on_the_internet_may_not_redirect_to_this_machine():
    from lmctl.errors import LmctlError
    from lmctl.hosts.redirects import Line

    line = Line(Endpoint("https://hub.example"))
    for target in ("http://127.0.0.1:1/x", "https://127.0.0.1/x", "https://169.254.169.254/x", "https://10.0.0.1/", ""):
        with pytest.raises(LmctlError) as error:
            line._next("https://hub.example/a" if target else "http://hub.example/a", target)
        assert error.value.code == "E-HUB"
    assert line._next("https://hub.example/a", "https://cdn.example/b") == "https://cdn.example/b"
    assert line._next("https://hub.example/a", "/b") == "https://hub.example/b"


def test_F43_an_address_whose_time_is_over_is_asked_for_anew(repo, transfer, want):
    repo.fault("o/n", "big.gguf", redirect=f"{repo.elsewhere}/gone", headers=hub_headers(repo), times=1)
    (done,) = transfer(**PARTS).fetch([want("o/n", "big.gguf")], nothing, none)
    assert done.error is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://127.0.0.1:{port}", "refuses connections", id="F47-refused"),
        pytest.param("https://hub.invalid", "cannot be resolved", id="F47-dns"),
    ],
)
def test_F47_a_hub_that_cannot_be_reached(repo, want, tmp_path, waits, url, says):
    transfer = HubTransfer(
        Endpoint(url.format(port=free_port())), tmp_path / "hub", tmp_path / "lmctl", Limits(), stop=waits
    )
    (done,) = transfer.fetch([want("o/n", "model.gguf")], nothing, none)
    assert (done.error.code, says in str(done.error)) == ("E-NETWORK", True), str(done.error)


def test_offline_asks_nobody(want, repo, tmp_path):
    transfer = HubTransfer(Endpoint("https://hub.invalid", offline=True), tmp_path / "hub", tmp_path / "lmctl")
    (done,) = transfer.fetch([want("o/n", "model.gguf")], nothing, none)
    assert done.error.code == "E-OFFLINE"
