"""command: the declared argv with its placeholders filled in, by consent alone."""

from __future__ import annotations

import pytest
from parts import LINUX, artifact, profile, serve, wanted

from lmctl.backends import command
from lmctl.errors import LmctlError
from lmctl.spec import Probe, Profile, Settings

GGUF = artifact("w", {"m.gguf": "weights"}, context_length=2048)
FOLDER = artifact("w", {"config.json": "config", "model.safetensors": "weights"}, format="mlx")
TRUSTED = frozenset({"command"})


def own(*argv: str, **fields: object) -> Profile:
    return profile("command", command=argv, **fields)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param(("serve", "--port", "{port}"), ("serve", "--port", "8081"), id="port"),
        pytest.param(("serve", "http://{host}:{port}/"), ("serve", "http://127.0.0.1:8081/"), id="within-a-word"),
        pytest.param(("serve", "{model}", "{name}"), ("serve", "/w/w/m.gguf", "chat"), id="model-and-name"),
        pytest.param(("serve", "{ctx}"), ("serve", "2048"), id="context-of-one-request"),
        pytest.param(
            ("serve", '{"a": {}}', "{other}", "{{port}}"), ("serve", '{"a": {}}', "{other}", "{8081}"), id="else"
        ),
        pytest.param(("a b", "$(x);'\""), ("a b", "$(x);'\""), id="no-shell"),
    ],
)
def test_placeholders(argv: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert command.command(serve(own(*argv), GGUF)) == expected


def test_a_value_is_not_filled_in_again() -> None:
    named = own("serve", "{name}", name="{port}")
    assert command.command(serve(named, GGUF)) == ("serve", "{port}")


def test_a_repository_of_safetensors_is_given_as_its_folder() -> None:
    assert command.command(serve(own("serve", "{model}"), FOLDER)) == ("serve", "/w/w")


def test_no_model() -> None:
    assert command.command(serve(own("serve", "{port}", weights=None))) == ("serve", "8081")


def test_weights_without_a_file() -> None:
    with pytest.raises(LmctlError) as refused:
        command.command(serve(own("serve", "{model}"), artifact("w", {"mmproj.gguf": "mmproj"})))
    assert refused.value.code == "E-ENGINE"


def test_health_is_the_declared_path() -> None:
    assert command.probe(serve(own("serve", health="/ready"), GGUF)) == Probe("/ready")


def codes(declared: Profile, allowed: frozenset[str] = TRUSTED) -> list[str]:
    return [problem.code for problem in command.check(declared, allowed, LINUX)]


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        pytest.param(own(), "E-ARG", id="empty"),
        pytest.param(own("", "x"), "E-ARG", id="no-program"),
        pytest.param(own("serve", "a\nb"), "E-ARG", id="I53-newline"),
        pytest.param(own("serve", "a\0b"), "E-ARG", id="I53-NUL"),
        pytest.param(own("serve", "x" * (1 << 20)), "E-LIMIT", id="I53-one-MB"),
        pytest.param(own("serve", *["x"] * 100_000), "E-LIMIT", id="I53-100k"),
        pytest.param(own("serve", "{model}", weights=None), "E-REF", id="model-of-none"),
        pytest.param(own("serve", settings=Settings(env={"X": "1"})), "E-ENV", id="I55-own-variable"),
        pytest.param(own("serve", settings=Settings(env={"LD_PRELOAD": "x"})), "E-ENV", id="I55-LD_PRELOAD"),
    ],
)
def test_refusals(declared: Profile, code: str) -> None:
    assert codes(declared) == [code]


def test_it_runs_by_consent_alone() -> None:
    assert codes(own("serve"), frozenset({"flags", "env"})) == ["E-TRUST"]
    assert codes(own("serve")) == []
    assert codes(own("serve", settings=Settings(env={"X": "1"})), TRUSTED | {"env"}) == []
    assert wanted("w").format == command.FORMAT
