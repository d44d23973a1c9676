"""init, validate, config, schema and profile as they are typed, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmctl.all_commands import load
from lmctl.arguments import parse
from lmctl.command import Options
from lmctl.compose import make_context
from lmctl.errors import LmctlError
from lmctl.schema import schemas
from lmctl.text import PLAIN

TOML = """\
version = 1
name = "team"
[defaults]
ctx = 8192
[gateway]
port = 9000
[profiles.x]
model = "o/m-GGUF"
quant = "Q4_K_M"
ctx = 4096
env = { CUDA_VISIBLE_DEVICES = "0" }
[[profiles.x.when]]
memory = "> 900 TiB"
ctx = 512
[engines."llama.cpp"]
version = "b6000"
"""


@pytest.fixture
def typed(tmp_path, home):
    """Run a command line in an empty folder; return its result and its text."""

    def run(*argv, **environ):
        name, args = parse(argv)
        options = Options(directory=tmp_path, sets=tuple(args.sets))
        context = make_context(options, {"HOME": str(home), **environ}, "never")
        result = load(name).run(context, args)
        return result, result.text if isinstance(result.text, str) else result.text(PLAIN)

    run.folder = tmp_path
    return run


@pytest.fixture
def team(typed):
    (typed.folder / "localmodels.toml").write_text(TOML)
    return typed


def refusal(run, *argv):
    with pytest.raises(LmctlError) as caught:
        run(*argv)
    return caught.value


def test_from_nothing_to_a_valid_declaration(typed):
    typed("init", "--name", "mine")
    assert refusal(typed, "validate").code == "E-EMPTY"
    typed("profile", "add", "code", "model=o/m", "quant=Q4_K_M", "ctx=4096")
    assert (typed.folder / "profiles/code.toml").read_text() == 'model = "o/m"\nquant = "Q4_K_M"\nctx = 4096\n'
    result, text = typed("validate")
    assert text == f"mine: 1 profile, no errors ({typed.folder}/localmodels.toml)"
    assert result.data["profiles"] == ["code"]


def test_init_takes_the_folders_name_as_far_as_it_is_one(typed):
    deep = typed.folder / "my models!"
    deep.mkdir()
    name, args = parse(["init"])
    context = make_context(Options(directory=deep), {"HOME": str(typed.folder)}, "never")
    assert load(name).run(context, args).data["name"] == "my-models-"


def test_init_writes_where_everyone_reads(typed, monkeypatch):
    (typed.folder / "deep").mkdir()
    (typed.folder / "here").mkdir()
    monkeypatch.chdir(typed.folder / "here")
    name, args = parse(["init", "--name", "mine"])
    options = Options(directory=typed.folder / "deep", elsewhere=True, config=Path("x.toml"))
    context = make_context(options, {"HOME": str(typed.folder)}, "never")
    load(name).run(context, args)
    assert context.declaration(empty=True).file == typed.folder / "deep/x.toml"
    assert list((typed.folder / "here").iterdir()) == []


@pytest.mark.parametrize("argv", [["init"], ["schema", "--write", "out"], ["validate"]], ids=lambda argv: argv[0])
def test_a_folder_that_is_not_there(typed, argv):
    name, args = parse(argv)
    context = make_context(Options(typed.folder / "typo", elsewhere=True), {"HOME": str(typed.folder)}, "never")
    with pytest.raises(LmctlError, match="typo is no folder") as caught:
        load(name).run(context, args)
    assert caught.value.code == "E-FILE"
    assert not (typed.folder / "typo").exists()


def test_init_overwrites_nothing(team):
    assert refusal(team, "init").code == "E-CONFLICT"
    assert (team.folder / "localmodels.toml").read_text() == TOML


def test_init_with_a_name_that_is_none(typed):
    assert refusal(typed, "init", "--name", "all").code == "E-NAME"
    assert list(typed.folder.iterdir()) == []


def test_validate_shows_what_has_no_effect(team):
    assert 'note: no effect yet: engines."llama.cpp"' in team("validate")[1]


def test_config_is_the_resolved_configuration(team):
    result, text = team("config", "--set", "profiles.x.parallel=2")
    assert result.data["config"]["profiles"]["x"] == {
        "backend": "llama.cpp",
        "ctx": 4096,
        "model": "o/m-GGUF",
        "quant": "Q4_K_M",
        "env": {"CUDA_VISIBLE_DEVICES": "0"},
        "parallel": 2,
    }
    assert "[gateway]\nport = 9000\n" in text
    assert text.endswith('# no effect yet: engines."llama.cpp"\n')


def test_config_hides_secrets(typed):
    secret = "sk-abcdefghijklmnopqrstuvwxyz"
    (typed.folder / "localmodels.toml").write_text(TOML.replace("ctx = 4096", f'description = "{secret}"'))
    for argv in (["config"], ["config", "--explain", "profiles.x.description"], ["config", "--explain", "profiles.x"]):
        result, text = typed(*argv)
        assert "(hidden)" in text
        assert secret not in text + json.dumps(dict(result.data)) + "".join(map(str, result.warnings))


EXPLAINED = {
    "layers": (
        "profiles.x.ctx",
        [
            (900, "--set profiles.x.ctx", "wins"),
            (700, "LMCTL_PROFILES__X__CTX", "overridden"),
            (600, "localmodels.local.toml:2:1", "overridden"),
            (512, "localmodels.toml:14:1", "does not hold here"),
            (4096, "localmodels.toml:10:1", "overridden"),
            (8192, "localmodels.toml:4:1", "overridden"),
            (8192, "default", "overridden"),
        ],
    ),
    "inside-a-table": ("profiles.x.env.CUDA_VISIBLE_DEVICES", [("0", "localmodels.toml:11:9", "wins")]),
    "another-table": ("gateway.port", [(9000, "localmodels.toml:6:1", "wins"), (8080, "default", "overridden")]),
    "default-alone": ("prune.after", [("7d", "default", "wins")]),
    "nothing": ("profiles.x.port", []),
}


@pytest.mark.parametrize(("key", "expected"), EXPLAINED.values(), ids=EXPLAINED)
def test_explain_names_the_file_and_line_that_won(team, key, expected):
    (team.folder / "localmodels.local.toml").write_text("[profiles.x]\nctx = 600\n")
    argv = ["config", "--explain", key, "--set", "profiles.x.ctx=900"]
    result, text = team(*argv, LMCTL_PROFILES__X__CTX="700")
    assert [(one["value"], one["place"], one["why"]) for one in result.data["said"]] == expected
    assert all(place in text for _, place, _ in expected)


def test_explain_tells_which_values_fell_with_a_backend(typed):
    text = '[profiles.x]\nmodel = "o/g"\ngpu_layers = 3\n[[profiles.x.when]]\nbackend = "mlx"\nmodel = "o/x"\n'
    (typed.folder / "localmodels.toml").write_text('version = 1\nname = "team"\n' + text)
    result, _ = typed("config", "--explain", "profiles.x.gpu_layers")
    assert [one["why"] for one in result.data["said"]] == ["backend mlx has no such key"]


@pytest.mark.parametrize(
    ("key", "code", "says"),
    [
        ("profiles.x.ctxx", "E-KEY", "did you mean `ctx`?"),
        ("gatway.port", "E-KEY", "did you mean `gateway`?"),
        ("profiles.y.ctx", "E-REF", "there is no profile 'y'"),
        ("a b", "E-KEY", "is no key"),
        ("", "E-KEY", "is no key"),
    ],
)
def test_explain_of_what_is_no_key(team, key, code, says):
    error = refusal(team, "config", "--explain", key)
    assert error.code == code
    assert says in str(error)


def test_schema_openapi(typed):
    committed = Path(__file__).parents[2] / "schemas/gateway.openapi.json"
    assert typed("schema", "--openapi")[1] == committed.read_text()


def test_schema(typed):
    assert "localmodels" in typed("schema")[1].split()
    assert json.loads(typed("schema", "plan")[1])["title"] == "lmctl plan"
    assert set(typed("schema", "--write", "out")[0].data["written"]) == {*schemas(), "gateway.openapi.json"}
    assert typed("schema", "--write", "out")[0].data["written"] == []
    committed = Path(__file__).parents[2] / "schemas/plan.schema.json"
    assert (typed.folder / "out/plan.schema.json").read_bytes() == committed.read_bytes()
    assert refusal(typed, "schema", "plan", "--write", "out").code == "E-USAGE"


@pytest.mark.parametrize("where", ["file/x", "file", "taken"])
def test_schemas_that_cannot_be_written(typed, where):
    (typed.folder / "file").write_text("")
    (typed.folder / "taken/plan.schema.json").mkdir(parents=True)
    error = refusal(typed, "schema", "--write", where)
    assert (error.code, len(str(error).splitlines())) == ("E-IO", 1)


def test_profile_set_and_remove(team):
    team("profile", "set", "x", "ctx=2048", "sampling.seed=3", "--unset", "quant")
    text = (team.folder / "localmodels.toml").read_text()
    assert "ctx = 2048\n" in text and "sampling = {seed = 3}\n" in text and "quant" not in text
    team("profile", "add", "y", "model=o/y")
    team("profile", "remove", "x")
    assert team("validate")[0].data["profiles"] == ["y"]


def test_a_path_given_to_profile_is_found_from_where_it_is_typed(team):
    deep = team.folder / "models"
    deep.mkdir()
    (deep / "w.gguf").write_bytes(b"")
    for verb, profile in (("add", "y"), ("set", "x")):
        name, args = parse(
            ["profile", verb, profile, "path=w.gguf", *(["--unset", "model", "--unset", "quant"] * (profile == "x"))]
        )
        context = make_context(Options(directory=deep), {"HOME": str(team.folder)}, "never")
        load(name).run(context, args)
        declared = context.declaration().profile(profile)
        assert declared.weights.path == deep / "w.gguf"


def test_a_program_may_be_declared_before_it_is_trusted(team):
    team("profile", "add", "own", "backend=command", 'command=["serve", "{port}"]')
    assert refusal(team, "validate").code == "E-TRUST"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["set", "x"],
            "`profile set` needs a key — write lmctl profile set x KEY=VALUE, or --unset KEY",
        ),
        (["set", "xx", "ctx=512"], "no committed file declares a profile 'xx' — did you mean `x`?"),
        (["remove", "x", "y"], "`profile remove` takes one profile — run it once for each"),
    ],
)
def test_edits_that_would_do_nothing_or_half_are_refused_in_words(team, argv, said):
    assert str(refusal(team, "profile", *argv)).partition("]: ")[2] == said


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["profile", "set", "x", "ctxx=1"], "E-KEY"),
        (["profile", "set", "x", "port=80"], "E-RANGE"),
        (["profile", "set", "nobody", "ctx=512"], "E-REF"),
        (["profile", "add", "x", "model=o/m"], "E-CONFLICT"),
        (["profile", "add", "z"], "E-KEY"),
        (["profile", "set", "x", "ctx"], "E-USAGE"),
        (["profile", "set", "x"], "E-USAGE"),
        (["profile", "remove", "x", "y"], "E-USAGE"),
        (["profile", "frobnicate", "x"], "E-USAGE"),
        (["profile"], "E-USAGE"),
    ],
)
def test_refused_edits_write_nothing(team, argv, code):
    assert refusal(team, *argv).code == code
    assert (team.folder / "localmodels.toml").read_text() == TOML
    assert [path.name for path in team.folder.iterdir()] == ["localmodels.toml"]
