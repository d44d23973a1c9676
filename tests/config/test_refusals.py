"""Every configuration that is refused: one line with code, place and fix."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lmctl.errors import LmctlError

CASES = tomllib.loads((Path(__file__).parent.parent / "cases/refused_config.toml").read_text())["case"]
PROFILE = 'version = 1\nname = "team"\n[profiles.x]\nmodel = "o/m"\n'


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_refused(case, place):
    place.write("localmodels.toml", case.get("text", PROFILE + case.get("keys", "")))
    with pytest.raises(LmctlError) as caught:
        place.load()
    problem = caught.value.problems[0]
    assert (problem.code, caught.value.exit_code in {4, 65}) == (case["code"], True), str(caught.value)
    shown = str(caught.value)
    assert case["says"] in shown
    assert all(line.startswith("error[") and line.isprintable() for line in shown.splitlines())
    if "at" in case:
        assert problem.place is not None
        assert [problem.place.file, problem.place.line, problem.place.column] == ["localmodels.toml", *case["at"]]
    assert "hides" not in case or case["hides"] not in shown
    assert not place.folders.cache.exists(), "what was refused must not be kept"


NAMES = {
    "I28-newline": (r"a\nb", r"\x0a"),
    "I29-trailing-newline": (r"qwen\n", r"\x0a"),
    "I31-semicolon": ("a;b", "a;b"),
    "I31-comment": ("a #b", "a #b"),
    "I32-colon": ("a:b", "a:b"),
    "I32-slash": ("a/b", "a/b"),
    "I32-space": ("a b", "a b"),
    "I32-bracket": ("a]b", "a]b"),
    "I34-right-to-left": (r"q\u202Eb", "U+202E at 2"),
    "I34-zero-width": (r"q\u200Bb", "U+200B at 2"),
    "I34-byte-order-mark": (r"q\uFEFFb", "U+FEFF at 2"),
    "I35-escape": (r"q\u001b[31m", r"\x1b"),
    "I38-empty": ("", "''"),
    "I38-dot": (".", "'.'"),
    "I38-dots": ("..", "'..'"),
    "I38-flags": ("-rf", "-rf"),
    "I38-help": ("--help", "--help"),
    "I40-10000": ("a" * 10_000, "longer than 63"),
    "reserved": ("all", "reserved"),
    "reserved-any-case": ("Gateway", "reserved"),
    "dos-device": ("con", "reserved"),
    "dos-device-with-extension": ("nul.txt", "reserved"),
}


@pytest.mark.parametrize(("name", "says"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("where", ["profile", "declaration", "group"])
def test_name(place, where, name, says):
    text = {
        "profile": f'version = 1\nname = "team"\n[profiles."{name}"]\nmodel = "o/m"\n',
        "declaration": f'version = 1\nname = "{name}"\n[profiles.x]\nmodel = "o/m"\n',
        "group": f'version = 1\nname = "t"\n[profiles.x]\nmodel = "o/m"\n[groups."{name}"]\nmembers = ["x", "x"]\n',
    }[where]
    place.write("localmodels.toml", text)
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert caught.value.code == "E-NAME"
    assert says in str(caught.value)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param("Qwen", "qwen", id="I37-case"),
        pytest.param("caf\u00e9", "cafe\u0301", id="I37-normal-form"),
    ],
)
def test_names_that_collide(place, one, two):
    text = f'version = 1\nname = "team"\n[profiles."{one}"]\nmodel = "o/m"\n[profiles."{two}"]\nmodel = "o/m"\n'
    place.write("localmodels.toml", text)
    with pytest.raises(LmctlError, match="collide ignoring case or normal form") as caught:
        place.load()
    assert caught.value.code == "E-NAME"


REPOS = [
    "../x",
    "a/b/c",
    "a//b",
    "a/b.git",
    "http://a/b",
    "a/..",
    "a/b?x=1",
    "a/b#x",
    "a",
    "",
    "a/",
    "/b",
    "a/b--c",
    "-a/b",
]


@pytest.mark.parametrize("repo", REPOS, ids=[f"I41-{repo}" for repo in REPOS])
def test_repository(place, repo):
    place.write("localmodels.toml", f'version = 1\nname = "team"\n[profiles.x]\nmodel = "{repo}"\n')
    with pytest.raises(LmctlError, match="owner/name") as caught:
        place.load()
    assert caught.value.code == "E-REPO"


FILES = [
    "../../.bashrc",
    "/etc/passwd",
    r"C:\\x",
    r"\\\\host\\s",
    r"..\\..\\x",
    "a/../../b",
    "a//b",
    "a/./b",
    r"a\u0000b",
]


@pytest.mark.parametrize("file", [*FILES, "", "a/"], ids=lambda file: f"I43-{file[:20]}")
def test_file_of_a_repository(place, file):
    place.write("localmodels.toml", PROFILE + f'file = "{file}"\n')
    with pytest.raises(LmctlError, match="must stay inside the repository") as caught:
        place.load()
    assert caught.value.code == "E-PATH"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("file", "x" * 255, id="F64-name-of-255"),
        pytest.param("file", "é" * 200, id="F64-name-of-400"),
        pytest.param("file", "a/" * 600 + "b", id="F64-path-of-1201"),
        pytest.param("path", "a/" + "x" * 255, id="F64-local-name-of-255"),
        pytest.param("path", "a/" * 512 + "b", id="F64-local-path-of-1025"),
        pytest.param("path", "a/" * 2047 + "bc", id="F64-local-path-of-4096"),
    ],
)
def test_a_path_that_is_too_long_for_some_system(place, key, value):
    head = PROFILE if key == "file" else 'version = 1\nname = "team"\n[profiles.x]\n'
    place.write("localmodels.toml", f'{head}{key} = "{value}"\n')
    with pytest.raises(LmctlError, match=r"bytes, and not every system takes more than .* — shorten it") as caught:
        place.load()
    assert caught.value.code == "E-PATH"


TWINS = [("A-Q4.gguf", "a-Q4.gguf"), ("caf\u00e9.gguf", "cafe\u0301.gguf"), ("dir/a.gguf", "Dir/a.gguf")]


@pytest.mark.parametrize("pair", TWINS, ids=["F64-case", "F64-normal-form", "F64-folder"])
@pytest.mark.parametrize("keys", ['model = "o/m"\nfile', "path"], ids=["hub", "local"])
def test_F64_files_that_are_one_on_some_system(place, pair, keys):
    profiles = [f'[profiles.p{number}]\n{keys} = "{file}"\n' for number, file in enumerate(pair)]
    place.write("localmodels.toml", 'version = 1\nname = "team"\n' + "".join(profiles))
    with pytest.raises(LmctlError, match="are one where case or normal form do not count — rename one") as caught:
        place.load()
    assert caught.value.code == "E-PATH"
    place.write("localmodels.toml", 'version = 1\nname = "team"\n' + profiles[0] + profiles[0].replace("p0", "p1"))
    place.load()


def test_F64_files_of_two_repositories_are_never_one(place):
    profiles = (
        f'[profiles.{name}]\nmodel = "o/{name}"\nfile = "{file}"\n' for name, file in zip("xy", TWINS[0], strict=True)
    )
    place.write("localmodels.toml", 'version = 1\nname = "team"\n' + "".join(profiles))
    assert [profile.name for profile in place.load().profiles] == ["x", "y"]


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_F64_an_overlay_of_another_system_counts(place, system):
    overlay = f'[[profiles.x.when]]\nos = "{system}"\nfile = "M.gguf"\n'
    place.write("localmodels.toml", f'{PROFILE}file = "m.gguf"\n{overlay}')
    with pytest.raises(LmctlError, match="are one where case or normal form do not count"):
        place.load()


@pytest.mark.parametrize("revision", ["", "-x", "a..b", "a//b", "a b", "x" * 129, "refs\\n"])
def test_revision(place, revision):
    place.write("localmodels.toml", PROFILE + f'revision = "{revision}"\n')
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert caught.value.code == "E-REVISION"


def test_I5_byte_order_mark_is_dropped(place):
    place.write("localmodels.toml", b"\xef\xbb\xbf" + PROFILE.encode())
    assert place.load().name == "team"


def test_I7_bytes_that_are_no_utf_8(place):
    place.write("localmodels.toml", PROFILE.encode() + b'description = "\xff"\n')
    with pytest.raises(LmctlError, match=r"localmodels.toml:5: byte 0xFF at offset 68") as caught:
        place.load()
    assert caught.value.code == "E-ENCODING"


HUGE = {  # read without bounds, each of these takes tens of seconds or the whole stack
    "I11-arrays": "x = " + "[" * 5000 + "]" * 5000,
    "I11-inline-tables": "x = " + "{a=" * 5000 + "1" + "}" * 5000,
    "F28-arrays": "x = " + "[" * 100_000,
    "F28-dotted-key": ".".join("a" * 20_000) + " = 1",
    "F28-dotted-header": "[" + ".".join("a" * 20_000) + "]",
    "F28-quoted-dotted-key": '."b" . '.join("a" * 5_000) + " = 1",
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
def test_nesting(place, text):
    place.write("localmodels.toml", f"version = 1\n# it's [[[\n{text}\n")
    with pytest.raises(LmctlError, match=r"localmodels.toml:3: .* more than 32") as caught:
        place.load()
    assert caught.value.code == "E-LIMIT"


def test_brackets_and_dots_in_strings_are_no_nesting(place):
    place.write("localmodels.toml", PROFILE + f"description = '{'[' * 100}{'.' * 100}'\n")
    assert place.load().profiles[0].description == "[" * 100 + "." * 100


def test_I13_huge_file(place):
    path = place.write("localmodels.toml", PROFILE)
    with path.open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert caught.value.code == "E-LIMIT"


def test_integer_too_long_for_python(place):
    place.write("localmodels.toml", PROFILE + f"port = {'9' * 5000}\n")
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert caught.value.code == "E-TOML"
    assert len(str(caught.value)) < 400


def test_all_errors_of_all_files_at_once(place):
    place.write("localmodels.toml", PROFILE + 'include = ["profiles/*.toml"]\n')
    text = (
        'version = 1\nname = "team"\ninclude = ["profiles/*.toml"]\nnmae = 1\n[profiles.x]\nmodel = "m"\nctx = true\n'
    )
    place.write("localmodels.toml", text)
    place.write("profiles/a.toml", 'model = "o/m"\nprot = 9000\n')
    place.write("profiles/b.toml", "model = \n")
    place.write("localmodels.local.toml", "[profiles.x]\nctx = 1\n")
    place.machine("[hub]\nendpoit = 'https://x'\n")
    with pytest.raises(LmctlError) as caught:
        place.load("profiles.x.ctx=-5", environ={"LMCTL_GATEWAY__PORT": "80"})
    places = {str(problem.place): problem.code for problem in caught.value.problems}
    assert places == {
        "localmodels.toml:4:1": "E-KEY",
        "localmodels.toml:6:1": "E-REPO",
        "localmodels.toml:7:1": "E-TYPE",
        "profiles/a.toml:2:1": "E-KEY",
        "profiles/b.toml:1:9": "E-TOML",
        "localmodels.local.toml:2:1": "E-RANGE",
        "machine.toml:2:1": "E-KEY",
        "--set profiles.x.ctx": "E-RANGE",
        "LMCTL_GATEWAY__PORT": "E-RANGE",
    }


KEYS_OF_FILES = {
    "chat_template": 'model = "o/m"\nchat_template = "linked/x.jinja"\n',
    "path": 'path = "linked/x.jinja"\n',
    "mmproj": 'path = "w.gguf"\nmmproj = "linked/x.jinja"\n',
    "lora": 'model = "o/m"\nlora = [{ path = "linked/x.jinja" }]\n',
    "draft": 'model = "o/m"\ndraft = { path = "linked/x.jinja" }\n',
}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("2", "version: format 2 is newer than this lmctl, which reads 1 — upgrade lmctl, or write `version = 1`"),
        ("0", "version: '0' is not one of 1"),
        ("true", "version: expected integer, got boolean"),
    ],
)
def test_a_format_that_is_not_known_says_what_to_do(place, value, says):
    place.write("localmodels.toml", f'version = {value}\nname = "team"\n[profiles.x]\nmodel = "o/m"\n')
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert says in str(caught.value)


@pytest.mark.parametrize(("key", "keys"), KEYS_OF_FILES.items(), ids=KEYS_OF_FILES)
@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_committed_link_that_leads_out(place, tmp_path_factory, key, keys, how):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "x.jinja").write_text("a secret")
    if how == "file":
        (place.folder / "linked").mkdir()
        (place.folder / "linked/x.jinja").symlink_to(outside / "x.jinja")
    else:
        (place.folder / "linked").symlink_to(outside)
    place.write("localmodels.toml", f'version = 1\nname = "team"\n[profiles.x]\n{keys}')
    with pytest.raises(LmctlError, match="is a link that leads out of the declaration's folder") as caught:
        place.load()
    assert [problem.code for problem in caught.value.problems] == ["E-PATH"]
    assert "secret" not in str(caught.value)
    place.write("localmodels.local.toml", f"[profiles.x]\n{keys}")
    place.write("localmodels.toml", 'version = 1\nname = "team"\n[profiles.x]\nmodel = "o/m"\n')
    assert place.load().profiles, f"a local file may name {key} anywhere"


def test_a_committed_link_that_stays_inside(place):
    place.write("real/x.gguf", "")
    (place.folder / "x.gguf").symlink_to("real/x.gguf")
    place.write("localmodels.toml", 'version = 1\nname = "team"\n[profiles.x]\npath = "x.gguf"\n')
    assert place.load().profiles[0].weights.path == place.folder / "x.gguf"


def test_a_file_that_becomes_a_link_out_is_seen_although_the_declaration_stays(place, home):
    place.write("x.jinja", "")
    place.write("localmodels.toml", PROFILE + 'chat_template = "x.jinja"\n')
    assert place.load().profiles
    (place.folder / "x.jinja").unlink()
    (place.folder / "x.jinja").symlink_to(home)
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert caught.value.code == "E-PATH"
