"""What a cloud is told of a request, and that its key shows nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmctl.errors import LmctlError
from lmctl.front import Cloud
from lmctl.gateway import cloud_fields, fields
from lmctl.gateway.cloud_fields import FIELDS, told
from lmctl.gateway.cloud_keys import key
from lmctl.record import record
from lmctl.secret import Secret

KEY = "sk-canary-0123456789"
BIG = Cloud("big", "https://api.example/v1", "large")


def test_fields_of_engines_alone_are_left_out():
    body = {"model": "x", "messages": [], "temperature": 0.5, "top_k": 40, "min_p": 0.1, "grammar": "root ::= x"}
    body |= {"chat_template_kwargs": {}, "t_max_predict_ms": 3, "samplers": [], "ignore_eos": True, "n_predict": 4}
    assert told("chat", body) == {"model": "x", "messages": [], "temperature": 0.5}


@pytest.mark.parametrize("endpoint", FIELDS)
def test_every_field_is_one_that_requests_may_carry(endpoint):
    assert FIELDS[endpoint] <= fields.FIELDS[endpoint].keys()
    assert not {name for name in FIELDS[endpoint] if fields.FIELDS[endpoint][name] in fields._REFUSED.values()}


def test_only_endpoints_of_openai_are_passed_on_to_clouds():
    assert set(cloud_fields.FIELDS) == {"chat", "completions", "responses", "embeddings"}


def test_a_cloud_without_a_key_gets_none():
    assert key(BIG, {"HF_TOKEN": KEY, "OPENAI_API_KEY": KEY}) is None


def test_a_variable_holds_the_key():
    cloud = Cloud("big", BIG.base_url, BIG.model, key_env="BIG_KEY")
    assert key(cloud, {"BIG_KEY": f"{KEY}\n"}) == KEY.encode()
    for environ in ({}, {"BIG_KEY": ""}):
        with pytest.raises(LmctlError) as error:
            key(cloud, environ)
        said = str(error.value)
        assert error.value.code == "E-SECRET" and "BIG_KEY is not set" in said and "key_file in [cloud.big]" in said


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


def at(path: Path) -> Cloud:
    return Cloud("big", BIG.base_url, BIG.model, key_file=path)


def test_a_file_holds_the_key_also_behind_a_link(file, tmp_path):
    assert key(at(file), {}) == KEY.encode()
    link = tmp_path / "link"
    link.symlink_to(file)
    assert key(at(link), {}) == KEY.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_file_that_others_reach_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(LmctlError, match="chmod 600") as error:
        key(at(file), {})
    assert error.value.code == "E-PERM" and KEY not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"oneQ\ntwoQ", b"twoQ words", b"caf\xc3\xa9", b"a\x00b", b"x" * 5000, b"a\r\nInjected: b"],
    ids=ascii,
)
def test_a_file_that_holds_no_key_is_refused_without_showing_what_it_holds(file, content):
    file.write_bytes(content)
    with pytest.raises(LmctlError) as error:
        key(at(file), {})
    assert error.value.code == "E-SECRET"
    assert not [word for word in ("oneQ", "twoQ", "caf", "xxx", "Injected") if word in str(error.value)]


def test_a_file_that_is_none_does_not_keep_anybody_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "absent"):
        with pytest.raises(LmctlError) as error:
            key(at(tmp_path / name), {})
        assert error.value.code == "E-FILE"


def test_nothing_shows_a_key():
    @record
    class Holder:
        key: Secret

    secret = Secret(KEY.encode())
    assert b"Bearer " + secret == f"Bearer {KEY}".encode()
    assert KEY not in f"{secret} {secret!r} {[secret]} {Holder(secret)!r} {secret:}"
