"""llama.cpp: flags and variables that are refused, and those that need consent."""

from __future__ import annotations

import pytest
from parts import LINUX, profile

from lmctl import allowlist
from lmctl.backends import llama_cpp
from lmctl.errors import EXIT_CODES
from lmctl.spec import Settings

NOTHING: frozenset[str] = frozenset()


# ---- refusals ----


def refused(
    args: tuple[str, ...] = (), env: dict[str, str] | None = None, allowed: frozenset[str] = NOTHING
) -> list[str]:
    settings = Settings(extra_args=args, env=env or {})
    problems = llama_cpp.check(profile(settings=settings), allowed, LINUX)
    assert all("s3cr3t" not in str(problem) and "\n" not in str(problem) for problem in problems)
    assert all(problem.fix and problem.code in EXIT_CODES for problem in problems)
    return [problem.code for problem in problems]


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("--host", "0.0.0.0"), id="I49-host"),
        pytest.param(("--host=0.0.0.0",), id="I49-equals"),
        pytest.param(("--hos", "0.0.0.0"), id="I49-prefix"),
        pytest.param(("--HOST", "0.0.0.0"), id="I49-upper-case"),
        pytest.param(("--ctx_size", "1"), id="I49-underscore"),
        pytest.param(("-h",), id="I49-short"),
        pytest.param(("-ngl", "99"), id="I49-short-of-a-key"),
        pytest.param(("--kv-unified",), id="I49-opposite"),
        pytest.param(("--jinja", "--port", "1"), id="I49-behind-a-harmless-one"),
        pytest.param(("--rope-scale", "--port"), id="I49-as-a-value"),
        pytest.param(("--cors-origins", "*"), id="I49-origins"),
    ],
)
def test_flags_that_lmctl_manages(args: tuple[str, ...]) -> None:
    assert refused(args)[0] == "E-FLAG"
    assert refused(args, allowed=frozenset({"flags"}))[0] == "E-FLAG"


UNSAFE = [
    ("--tools", "all"),
    ("--agent",),
    ("--mcp-servers-json", "{}"),
    ("--video-ffmpeg-dir", "."),
    ("--slot-save-path", "/"),
    ("--path", "/"),
    ("--log-file", "/tmp/x"),
    ("--grammar-file", "/etc/passwd"),
    ("--rpc", "10.0.0.1:1"),
    ("--verbose",),
    ("--no-such-flag",),
]


@pytest.mark.parametrize("args", [pytest.param(args, id=f"I50{args[0]}") for args in UNSAFE])
def test_flags_that_need_consent(args: tuple[str, ...]) -> None:
    assert refused(args)[0] == "E-UNSAFE"
    assert refused(args, allowed=frozenset({"flags"})) == []
    assert refused(args, allowed=frozenset({"env", "command", "remote_code"}))[0] == "E-UNSAFE"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        pytest.param(("--api-key", "s3cr3t"), "E-SECRET", id="I52-key"),
        pytest.param(("--api-key=s3cr3t",), "E-SECRET", id="I52-equals"),
        pytest.param(("--api", "s3cr3t"), "E-SECRET", id="I52-prefix"),
        pytest.param(("--hf-token", "s3cr3t"), "E-SECRET", id="I52-token"),
        pytest.param(("-hft", "s3cr3t"), "E-SECRET", id="I52-short"),
        pytest.param(("--keep", "s3cr3t\n--host"), "E-ARG", id="I53-newline"),
        pytest.param(("--keep\0", "1"), "E-ARG", id="I53-NUL"),
        pytest.param(("--keep", "\udcff"), "E-ARG", id="I53-not-text"),
        pytest.param(("--keep", "1" * (1 << 20)), "E-LIMIT", id="I53-one-MB"),
        pytest.param(("--jinja",) * 100_000, "E-LIMIT", id="I53-100k"),
        pytest.param(("s3cr3t",), "E-ARG", id="I53-no-flag"),
        pytest.param(("--keep", "1", "2"), "E-ARG", id="I53-one-value-too-many"),
        pytest.param(("--keep=1",), "E-ARG", id="I53-harmless-with-equals"),
    ],
)
def test_arguments_that_are_never_passed_on(args: tuple[str, ...], code: str) -> None:
    assert refused(args)[0] == code


@pytest.mark.parametrize(
    "group", [group for group in llama_cpp.RULES.groups if group.flags], ids=lambda group: group.why
)
def test_harmless_flags(group: allowlist.Group) -> None:
    for name, values in group.flags.items():
        assert refused((name, *["-1"] * values)) == []


ALWAYS_REFUSED = ["LLAMA_ARG_TOOLS", "LLAMA_ARG_HOST", "LD_PRELOAD", "PYTHONPATH", "PATH", "HF_TOKEN", "OLLAMA_HOST"]
ALWAYS_REFUSED += ["VLLM_SERVER_DEV_MODE", "HOME", "DYLD_INSERT_LIBRARIES", "GGML_BACKEND_PATH", "https_proxy".upper()]
ALWAYS_REFUSED += ["OPENAI_API_KEY", "BASH_ENV"]


@pytest.mark.parametrize("name", [pytest.param(name, id=f"I55-{name}") for name in ALWAYS_REFUSED])
def test_variables_that_are_never_passed_on(name: str) -> None:
    assert refused(env={name: "s3cr3t"}) == ["E-ENV"]
    assert refused(env={name: "s3cr3t"}, allowed=frozenset({"env"})) == ["E-ENV"]


def test_I55_a_variable_of_ones_own_needs_consent() -> None:
    assert refused(env={"MY_SWITCH": "1"}) == ["E-ENV"]
    assert refused(env={"MY_SWITCH": "1"}, allowed=frozenset({"env"})) == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=f"I56-{name!r}")
        for name in ("A=B", "A B", "", "lower", "A%B", "A\n", "1A", "Ä", "A" * 200)
    ],
)
def test_names_that_no_variable_has(name: str) -> None:
    assert refused(env={name: "s3cr3t"}, allowed=frozenset({"env"})) == ["E-ENV"]


@pytest.mark.parametrize(
    ("env", "code"),
    [
        pytest.param({"CUDA_VISIBLE_DEVICES": "0\n1"}, "E-ARG", id="newline"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0" * 5000}, "E-LIMIT", id="long"),
        pytest.param({f"V{n}": "" for n in range(65)}, "E-LIMIT", id="many"),
    ],
)
def test_values_of_variables(env: dict[str, str], code: str) -> None:
    assert refused(env=env, allowed=frozenset({"env"})) == [code]


def test_harmless_variables() -> None:
    assert refused(env=dict.fromkeys(llama_cpp.RULES.env, "1")) == []
