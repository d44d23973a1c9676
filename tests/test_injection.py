"""Any text in any field is data to the end: to supervisord's file, to the program file, to the argv of the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from declarations import LINUX, PRELUDE, Place
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from supervisor.options import UnhosedConfigParser

from lmctl import launch
from lmctl.all_backends import BACKENDS
from lmctl.backend import Engine, Serve
from lmctl.errors import LmctlError
from lmctl.hosts import supervisor_conf
from lmctl.hosts.supervisor_files import Files
from lmctl.record import replace
from lmctl.spec import Artifact, Draft, LockedFile, Lora, Profile, ProgramSpec, Role, Settings, Wanted, program_id

NASTY = [
    "",
    " ",
    "a b",
    "%(here)s %(ENV_HOME)s %%",
    "x\n[program:evil]\ncommand=/bin/true",
    "x\r\n[include]\nfiles=/etc/*",
    "]\n[supervisord]",
    "; comment # comment",
    "$(id) `id` ${HOME} | & > < ; '",
    "\"quo'ted\\",
    "{python} {port} {model} {0} {}",
    "--host=0.0.0.0",
    "-",
    "\t\v\f",
    "\x1b[31m\x07",
    "\u202e\u200b\ufeff",
    "héllo ☃ \U0001f600",
    "\udcff\udc80",  # bytes that are no UTF-8
    "\x00",
    "\ud800",
    "=",
    ",:",
    "x" * 3000,
]
TEXT = st.one_of(st.sampled_from(NASTY), st.text(max_size=30), st.text("%()[]{};#=\n\\'\" $`\x00\udc80", max_size=20))
WORDS = st.lists(TEXT, max_size=4).map(tuple)
TABLE = st.dictionaries(TEXT, TEXT, max_size=3)
ROLES: tuple[Role, ...] = ("weights", "mmproj", "lora", "draft")
PROPERTY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def serves(draw: st.DrawFn) -> Serve:
    """Everything that argv depends on, with any text wherever a record holds some."""
    backend = draw(st.sampled_from(sorted(BACKENDS)))
    wanted = {role: Wanted(role + draw(TEXT), draw(TEXT), draw(TEXT), draw(TEXT), "gguf", role) for role in ROLES}
    names = {role: draw(TEXT) for role in ROLES}
    artifacts = {
        one.id: Artifact(one.id, "gguf", None, {}, (LockedFile(names[role], role, 1, draw(TEXT)),))
        for role, one in wanted.items()
    }
    files = {(one.id, names[role]): Path("/w") / draw(TEXT) / names[role] for role, one in wanted.items()}
    told = Settings(
        load_mode=draw(TEXT),
        cache_type_k=draw(TEXT),
        devices=draw(WORDS),
        chat_template=draw(TEXT),
        chat_template_file=Path("/t") / draw(TEXT),
        pooling=draw(TEXT),
        sampling=dict.fromkeys(("seed", "temperature"), draw(TEXT)),
        extra_args=draw(WORDS),
        env=draw(TABLE),
    )
    profile = Profile(
        draw(TEXT),
        backend,
        wanted["weights"],
        told,
        mmproj=wanted["mmproj"],
        lora=(Lora(wanted["lora"]),),
        draft=Draft(wanted["draft"]),
        aliases=draw(WORDS),
        description=draw(TEXT),
        command=(draw(TEXT.filter(bool)), *draw(WORDS)),
        health=draw(TEXT),
    )
    engine = Engine((draw(TEXT.filter(bool)),))
    return Serve(profile, engine, draw(TEXT), 8081, artifacts, files, LINUX, draw(TEXT).encode("utf-8", "replace"))


def program(serve: Serve, cwd: str = ".") -> ProgramSpec | None:
    """Return the program of a profile, None where its backend says why there can be none."""
    backend = BACKENDS[serve.profile.backend]
    try:
        argv = backend.command(serve)
        env = {**backend.environment(serve), **serve.profile.settings.env}
    except LmctlError:
        return None
    return ProgramSpec(program_id(serve.profile.name), serve.profile.name, argv, env, cwd, "a" * 64, serve.host)


@PROPERTY
@given(serves(), TEXT)
def test_the_launcher_reads_back_the_same_argv_environment_and_folder(serve, cwd):
    spec = program(serve, cwd)
    if spec is None:
        return
    with TemporaryDirectory() as folder:
        file = Path(folder, f"{spec.id}.json")
        file.write_bytes(supervisor_conf.program_file(spec))
        file.chmod(0o600)
        read = launch.read_program(str(file))
        assert (read["argv"], read["env"], read["cwd"]) == ([*spec.argv], dict(spec.env), cwd)
        assert supervisor_conf.read_program(file) == spec
    assert file.name == f"p-{spec.id[2:]}.json" and spec.id[2:].isalnum()
    supervisor_conf.program_file(spec).decode("ascii")


@PROPERTY
@given(st.lists(serves(), min_size=1, max_size=3))
def test_F72_the_file_of_supervisord_says_the_same_whatever_the_profiles_say(given_serves):
    specs = {spec.id: spec for spec in map(program, given_serves) if spec is not None}
    text = supervisor_conf.join(supervisor_conf.sections(specs.values(), "s.sock", 1 << 20))
    plain = [ProgramSpec(name, "", ("x",), {}, ".", spec.hash, "") for name, spec in specs.items()]
    assert text == supervisor_conf.join(supervisor_conf.sections(plain, "s.sock", 1 << 20))
    parser = UnhosedConfigParser()
    parser.read_string(text)
    ours = {"supervisord", "unix_http_server", "rpcinterface:supervisor"}
    assert set(parser.sections()) == ours | {f"program:{name}" for name in specs}
    assert {parser.get(f"program:{name}", "command") for name in specs} == {f"./launch {name}" for name in specs}
    supervisor_conf.check(text, tuple(specs.values()))


@settings(deadline=None, max_examples=20)
@given(serves())
def test_what_is_written_is_what_the_files_declare(serve):
    """The way of an apply: written with supervisor's own check, read back as the next look does."""
    spec = program(serve)
    if spec is None:
        return
    with TemporaryDirectory() as folder:
        files = Files(Path(folder), 1 << 20)
        files.write([spec])
        declared, edited = files.declared()
        assert (declared, edited) == ({spec.id: spec}, ())
        assert files.write([spec]) is False


@PROPERTY
@given(WORDS.filter(lambda words: words and words[0]), TABLE)
@example(("{model}x{port}", "{{port}}", "{host"), {})
def test_a_command_is_the_declared_words_with_its_placeholders_alone_filled_in(words, env):
    told = Settings(env=env)
    profile = Profile("x", "command", None, told, command=tuple(word.replace("{model}", "") for word in words))
    argv = BACKENDS["command"].command(Serve(profile, Engine(()), "127.0.0.1", 8081))
    filled = {"{port}": "8081", "{host}": "127.0.0.1", "{name}": "x", "{ctx}": "8192"}
    for word, arg in zip(profile.command, argv, strict=True):
        for placeholder, value in filled.items():
            word = word.replace(placeholder, value)
        assert arg == word


DUMP = "import json, os, sys; print(json.dumps([[os.fsencode(a).hex() for a in sys.argv[1:]], os.environ['X']]))"


@settings(deadline=None, max_examples=5)
@given(st.lists(TEXT, max_size=200))
@example(NASTY)
def test_the_process_gets_every_byte_and_no_shell_ever_looks(texts):
    """The launcher itself, up to execve: what the kernel cannot carry is refused, all else arrives byte by byte."""
    words = [text for text in texts if _carried(text)]
    argv = ("{python}", "-I", "-c", DUMP, *words)
    spec = ProgramSpec(program_id("x"), "x", argv, {"X": "a b%(x)s;\n"}, ".", "a" * 64, "")
    done = _launched(spec)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[os.fsencode(word).hex() for word in words], "a b%(x)s;\n"]


def _carried(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _launched(spec: ProgramSpec) -> subprocess.CompletedProcess[bytes]:
    with TemporaryDirectory() as folder:
        for name in ("programs", "starts"):
            Path(folder, name).mkdir(mode=0o700)
        file = Path(folder, "programs", f"{spec.id}.json")
        file.write_bytes(supervisor_conf.program_file(spec))
        file.chmod(0o600)
        argv = [sys.executable, "-P", "-m", "lmctl.launch", spec.id]
        return subprocess.run(argv, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("text", [text for text in NASTY if not _carried(text)], ids=ascii)
@pytest.mark.parametrize("where", ["argv", "env", "cwd"])
def test_what_no_process_can_be_given_is_refused_and_nothing_runs(text, where):
    plain = ProgramSpec(program_id("x"), "x", ("/bin/echo", "ran"), {}, ".", "a" * 64, "")
    changed = {"argv": ("/bin/echo", "ran", text), "env": {"X": text}, "cwd": text}[where]
    done = _launched(replace(plain, **{where: changed}))
    assert (done.returncode, done.stdout) == (launch.REFUSED, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("lmctl: p-") and "is not started" in line


FIELDS = ("command", "env", "description", "path", "chat_template", "extra_args", "pooling", "devices", "health")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIELDS), TEXT)
def test_a_text_that_the_configuration_takes_is_the_text_that_was_written(field, text):
    """From TOML on: refused with a place, or kept to the character."""
    toml = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    keys = {
        "command": f'backend = "command"\ncommand = ["x", {toml}]',
        "health": f'backend = "command"\ncommand = ["x"]\nhealth = {toml}',
        "env": f'path = "w"\nenv = {{ A = {toml} }}',
        "extra_args": f'path = "w"\nextra_args = [{toml}]',
        "devices": f'path = "w"\ndevices = [{toml}]',
        "path": f"path = {toml}",
    }.get(field, f'path = "w"\n{field} = {toml}')
    with TemporaryDirectory() as folder, TemporaryDirectory() as home:
        place = Place(Path(os.path.realpath(folder)), Path(home))
        place.machine('[allow]\nteam = ["command", "env", "flags"]\n')
        try:
            place.write("localmodels.toml", f"{PRELUDE}[profiles.x]\n{keys}\n")
            (profile,) = place.load().profiles
        except UnicodeEncodeError:
            return  # no file can hold it
        except LmctlError as error:
            assert all(problem.place for problem in error.problems)
            assert len(str(error).splitlines()) == len(error.problems)
            return
    kept = {
        "command": profile.command[1:],
        "env": (profile.settings.env.get("A"),),
        "extra_args": profile.settings.extra_args,
        "devices": profile.settings.devices,
    }.get(field) or (profile.changed[field],)
    assert kept == (text,)
