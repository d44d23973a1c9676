"""Repositories that try to run something by being pulled: each way is what its files say, and what lmctl says to it.

`{touch}` in a text is the path of a program that makes the marker, `{marker}` the marker itself, `{home}` the home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lmctl.record import NOTHING, record

HEAD = 'version = 1\nname = "team"\n'
HELLO = '[profiles.hello]\npath = "hello.gguf"\nstart = "manual"\n'
LOCK = (
    '# Written by `lmctl lock`. Do not edit.\nversion = 1\n\n[[artifact]]\nid = "path=hello.gguf"\nformat = "local"\n'
)


@record
class Way:
    """One try. `says`: a code that validating it ends with, "" where it is harmless and welcome."""

    says: str
    toml: str = HEAD + HELLO
    files: dict[str, str] = NOTHING  # type: ignore[assignment]
    links: dict[str, str] = NOTHING  # type: ignore[assignment]
    at_lock: bool = False  # it is the lock that is refused: validating does not read it


def command(text: str) -> str:
    return HEAD + f'[profiles.x]\nbackend = "command"\ncommand = [{text}]\n'


def profile(text: str, backend: str = "llama.cpp") -> str:
    return HEAD + HELLO + f'backend = "{backend}"\n{text}\n'


PYTHON = "import pathlib; pathlib.Path({marker!r}).touch()\n"
PROGRAMS = dict.fromkeys(("llama-server", "nvidia-smi", "supervisord", "launch", "sh"), "#!/bin/sh\n: > '{marker}'\n")
ENVIRONMENT = "export PYTHONSTARTUP={touch} BASH_ENV={touch} XDG_CONFIG_HOME=$PWD LMCTL_ALLOW__TEAM='[\"command\"]'\n"
MODULES = {f"{name}.py": PYTHON for name in ("lmctl", "json", "tomllib", "pydantic", "supervisor", "sitecustomize")}

COMMANDS = {
    "program": Way("E-TRUST", command('"{touch}"')),
    "shell": Way("E-TRUST", command('"sh", "-c", ": > {marker}"')),
    "metacharacters": Way("E-TRUST", command('"true; {touch} #", "$({touch})", "`{touch}`", "|{touch}"')),
    "overlay": Way(
        "E-TRUST",
        HEAD
        + HELLO
        + '[[profiles.hello.when]]\nos = ["linux", "darwin"]\nbackend = "command"\ncommand = ["{touch}"]\n',
    ),
    "included-profile": Way(
        "E-TRUST",
        'include = ["profiles/*.toml"]\n' + HEAD + HELLO,
        {"profiles/x.toml": 'backend = "command"\ncommand = ["{touch}"]\n'},
    ),
    "local-file": Way("E-TRUST", files={"localmodels.local.toml": command('"{touch}"').removeprefix(HEAD)}),
    "defaults": Way("E-KEY", HEAD + '[defaults]\nbackend = "command"\ncommand = ["{touch}"]\n' + HELLO),
}
FLAGS = {
    name: Way(says, profile(f"extra_args = [{args}]", backend))
    for name, says, backend, args in (
        ("tools", "E-UNSAFE", "llama.cpp", '"--tools", "all"'),
        ("mcp-server", "E-UNSAFE", "llama.cpp", '\'--mcp-servers-json\', \'{{"x": {{"command": "{touch}"}}}}\''),
        ("save-path", "E-UNSAFE", "llama.cpp", '"--slot-save-path", "{home}"'),
        ("abbreviated", "E-UNSAFE", "llama.cpp", '"--slot-sav={home}"'),
        ("another-model", "E-FLAG", "llama.cpp", '"--model-url", "file://{touch}"'),
        ("value-of-a-harmless-one", "E-UNSAFE", "llama.cpp", '"--samplers", "x", "--log-file", "{marker}"'),
        ("positional", "E-ARG", "llama.cpp", '"{touch}"'),
        ("remote-code", "E-REMOTECODE", "mlx", '"--trust-remote-code"'),
    )
}
VARIABLES = {
    name: Way("E-ENV", profile(f"env = {{{{ {name} = '{value}' }}}}"), {"evil/sitecustomize.py": PYTHON, **extra})
    for name, value, extra in (
        ("LD_PRELOAD", "./evil.so", {"evil.so": "no library"}),
        ("PYTHONPATH", "evil", {}),
        ("PYTHONSTARTUP", "{touch}", {}),
        ("PATH", "evil", {"evil/llama-server": PROGRAMS["sh"]}),
        ("BASH_ENV", "{touch}", {}),
        ("LLAMA_ARG_TOOLS", "all", {}),
        ("GGML_BACKEND_PATH", "./evil.so", {"evil.so": "no library"}),
        ("MY_PLUGIN", "{touch}", {}),
    )
}
OWNERS = {
    name: Way(says, HEAD + text + HELLO)
    for name, says, text in (
        ("engine-binary", "E-MACHINE", '[engines."llama.cpp"]\nbinary = "{touch}"\n'),
        ("allow", "E-MACHINE", '[allow]\nteam = ["command", "flags", "env"]\n'),
        ("notify", "E-MACHINE", '[watch]\nenabled = true\nnotify = ["{touch}"]\n'),
        ("hub", "E-MACHINE", '[hub]\nendpoint = "http://127.0.0.1:1"\ntoken_file = "{touch}"\n'),
        ("hooks", "E-KEY", '[hooks]\npre_apply = "{touch}"\n'),
    )
}
NAMES = {
    name: Way(says, text)
    for name, says, text in (
        ("profile-name", "E-NAME", HEAD + HELLO + '[profiles."$({touch})"]\npath = "hello.gguf"\n'),
        ("ini-by-name", "E-NAME", HEAD + '[profiles."x]\\n[program:y]\\ncommand={touch}"]\npath = "hello.gguf"\n'),
        ("declaration-name", "E-NAME", 'version = 1\nname = "../../$({touch})"\n' + HELLO),
        ("ini-by-alias", "E-NAME", HEAD + HELLO + 'aliases = ["a\\n[program:y]\\ncommand={touch}"]\n'),
        ("repository", "E-REPO", HEAD + '[profiles.x]\nmodel = "o/$({touch})"\nstart = "manual"\n'),
        ("revision", "E-REVISION", HEAD + '[profiles.x]\nmodel = "o/m"\nrevision = "--upload-pack={touch}"\n'),
        ("file", "E-PATH", HEAD + '[profiles.x]\nmodel = "o/m"\nfile = "../../{touch}"\n'),
        ("path-out", "E-PATH", HEAD + '[profiles.x]\npath = "{touch}"\n'),
        ("path-through-home", "E-PATH", HEAD + '[profiles.x]\npath = "~/touch"\n'),
        ("template-out", "E-PATH", HEAD + HELLO + 'chat_template = "../bin/touch.jinja"\n'),
        ("include-out", "E-INCLUDE", 'include = ["../*.toml", "/etc/*.toml"]\n' + HEAD + HELLO),
        ("include-shell", "E-INCLUDE", 'include = ["$({touch}).toml"]\n' + HEAD + HELLO),
    )
}
LINKS = {
    "linked-include": Way(
        "E-INCLUDE", 'include = ["p/*.toml"]\n' + HEAD + HELLO, {"p/a.toml": ""}, {"p/x.toml": "{touch}"}
    ),
    "linked-weights": Way("E-PATH", HEAD + '[profiles.x]\npath = "x.gguf"\n', links={"x.gguf": "{touch}"}),
    "linked-folder": Way("E-PATH", HEAD + '[profiles.x]\npath = "sub/touch"\n', links={"sub": "{home}/bin"}),
    "linked-local-file": Way("E-TOML", links={"localmodels.local.toml": "{touch}"}),
    "linked-locks": Way(
        "", links={"localmodels.lock": "{home}/precious", "localmodels.local.lock": "{home}/precious"}, at_lock=True
    ),
    "lock-that-leads-out": Way("", links={"localmodels.lock": "{marker}", "localmodels.local.lock": "{marker}"}),
}
LOCKS = {
    name: Way("", files={"localmodels.lock": LOCK + text}, at_lock=True)
    for name, text in (
        ("lock-path", f'[[artifact.file]]\npath = "../../touch"\nrole = "weights"\nsize = 9\nsha256 = "{"a" * 64}"\n'),
        ("lock-absolute", f'[[artifact.file]]\npath = "/touch"\nrole = "weights"\nsize = 9\nsha256 = "{"a" * 64}"\n'),
        ("lock-url", 'url = "file://{touch}"\n'),
        ("lock-hook", 'hook = "{touch}"\n'),
        ("lock-shell", f'[[artifact.file]]\npath = "$({{touch}})"\nrole = "x"\nsize = 9\nsha256 = "{"a" * 64}"\n'),
    )
}
WEIGHTS = {
    "code-in-weights": Way(
        "",
        HEAD + '[profiles.x]\nbackend = "mlx"\npath = "w"\nstart = "manual"\n',
        {
            "w/config.json": '{{"model_file": "evil.py", "auto_map": {{"AutoModel": "evil.A"}}}}',
            "w/model.safetensors": "no tensors",
            "w/evil.py": PYTHON,
        },
        at_lock=True,
    ),
    "pickled-weights": Way("", files={"hello.gguf": "cos\nsystem\n(S'{touch}'\ntR."}, at_lock=True),
    "script-as-weights": Way("", files={"hello.gguf": PROGRAMS["sh"]}, at_lock=True),
}
SURROUNDINGS = {
    "modules": Way("", files={**MODULES, "pydantic/__init__.py": PYTHON, "lmctl/__init__.py": PYTHON}),
    "programs": Way("", files=PROGRAMS),
    "hooks-of-tools": Way(
        "",
        files={
            "conftest.py": PYTHON,
            "setup.py": PYTHON,
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
            '[tool.lmctl]\nallow = ["command"]\npre = "{touch}"\n',
            "Makefile": "$(shell {touch})\n",
            ".git/config": "[core]\n\tfsmonitor = {touch}\n\tpager = {touch}\n",
            ".git/hooks/post-checkout": "#!/bin/sh\n{touch}\n",
            ".pth": "import os; os.system({touch!r})\n",
        },
    ),
    "environment-files": Way(
        "",
        files=dict.fromkeys((".env", ".envrc", "env", ".profile", "mise.toml"), ENVIRONMENT),
    ),
    "owners-files": Way(
        "E-TRUST",
        command('"{touch}"'),
        {
            "machine.toml": '[allow]\nteam = ["command"]\n',
            "lmctl/machine.toml": '[allow]\nteam = ["command"]\n',
            ".config/lmctl/machine.toml": '[allow]\nteam = ["command"]\n',
            "trust.json": '{{"schema": 1, "name": "team", "folder": "{folder}", "fields": []}}',
        },
    ),
    "kept-configuration": Way(
        "E-TRUST",
        command('"{touch}"'),
        {
            f"{folder}/x.json": '{{"key": "", "declaration": {{"name": "team"}}}}'
            for folder in (".cache/lmctl/config", "cache/config", ".lmctl")
        },
    ),
}
ALL: dict[str, Way] = {
    f"{kind}-{name}" if kind else name: way
    for kind, ways in (
        ("command", COMMANDS),
        ("flag", FLAGS),
        ("env", VARIABLES),
        ("owner", OWNERS),
        ("", NAMES),
        ("", LINKS),
        ("", LOCKS),
        ("", WEIGHTS),
        ("", SURROUNDINGS),
    )
    for name, way in ways.items()
}


def write(way: Way, folder: Path, known: dict[str, str]) -> None:
    """Write the repository; `known` are the words that its texts may name."""

    def filled(text: str) -> str:
        return text.format(**known, folder=str(folder))

    (folder / "localmodels.toml").write_text(filled(way.toml))
    for name, text in way.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(filled(text))
        path.chmod(0o755)
    for name, target in way.links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(filled(target))


Snapshot = dict[str, bytes]


def snapshot(folder: Path, but: Callable[[Path], bool]) -> Snapshot:
    """Return the content of every file below `folder` but for those that may change."""

    def files() -> Iterator[Path]:
        return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and not but(path))

    return {str(path): path.read_bytes() for path in files()}
