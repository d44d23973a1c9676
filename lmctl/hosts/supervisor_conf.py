"""The files that supervisord and the launcher read: rendered, read back, and parsed by supervisor itself."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

from lmctl import launch
from lmctl.errors import LmctlError, escape
from lmctl.host import MOST_RUNNING
from lmctl.spec import ProgramSpec

_ID = re.compile(r"p-[0-9a-f]{12}|gateway|watch")
_HASH = re.compile(r"[0-9A-Za-z]{1,128}")
_LOG_FILES = 3
_SECTIONS = ("supervisord", "unix_http_server", "rpcinterface:supervisor")

# `nocleanup` and `childlogdir` concern logs with generated names, which no program of ours has; `minprocs` would
# refuse to start where few processes are allowed
_HEAD = """\
; Written by lmctl. Do not edit: what runs is in programs/, and any change here is drift.
[supervisord]
logfile=supervisord.log
logfile_maxbytes=1048576
logfile_backups=1
pidfile=supervisord.pid
identifier=lmctl
umask=077
nocleanup=true
minfds={descriptors}
minprocs=1

[unix_http_server]
file={socket}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """\
[program:{id}]
command=./launch {id}
autostart={autostart}
startsecs=0
autorestart=unexpected
exitcodes=75
stopsignal=TERM
stopasgroup=true
killasgroup=true
stopwaitsecs={stop}
redirect_stderr=true
stdout_logfile=logs/{id}.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups={log_backups}
environment=LMCTL_HASH="{hash}"
"""


def ours(name: str) -> bool:
    """Return whether lmctl forms such names of programs."""
    return _ID.fullmatch(name) is not None


def descriptors(programs: int) -> int:
    """Return how many open files supervisord needs: five a program that runs (measured) and some of its own."""
    return 5 * min(programs, MOST_RUNNING) + 64


def launcher(python: str = sys.executable, module: str = launch.__file__) -> bytes:
    """Return the script that supervisord starts; it alone names a Python, so that no section changes with it.

    Where that Python or lmctl are gone, it ends with the exit code on which supervisord does not try again and again.
    """
    interpreter, source = shlex.quote(python), shlex.quote(module)
    return f"""#!/bin/sh
if [ -x {interpreter} ] && [ -r {source} ]; then
    exec {interpreter} -P -m lmctl.launch "$1"
fi
echo "lmctl: the Python that lmctl was installed in is gone: run lmctl apply" >&2
exit {launch.REFUSED}
""".encode("utf-8", "surrogateescape")


def login(folder: Path, python: str = sys.executable, module: str = launch.__file__) -> bytes:
    """Return the script that a unit of the login runs: it brings up supervisord of the state folder `folder`."""
    interpreter, source = shlex.quote(python), shlex.quote(module)
    return f"""#!/bin/sh
# Written by lmctl. `lmctl service uninstall` removes it.
if [ -x {interpreter} ] && [ -r {source} ]; then
    export XDG_STATE_HOME={shlex.quote(str(folder.parent.parent))}
    exec {interpreter} -P -m lmctl service start --name {shlex.quote(folder.name)}
fi
echo "lmctl: the Python that lmctl was installed in is gone: run lmctl apply" >&2
exit {launch.REFUSED}
""".encode("utf-8", "surrogateescape")


def python_of(script: bytes) -> tuple[str, str] | None:
    """Return the Python and lmctl's module that a script of `launcher` or `login` names; None for anything else."""
    text = script.decode("utf-8", "surrogateescape")
    found = re.search(r"^if (\[ -x .+ \] && \[ -r .+ \]); then$", text, flags=re.MULTILINE)
    try:
        words = shlex.split(found[1]) if found else []
    except ValueError:
        return None
    return (words[2], words[7]) if len(words) == 9 else None


def program_file(spec: ProgramSpec) -> bytes:
    """Return the launcher's file of a program: plain ASCII, so that every string survives byte by byte."""
    content = {
        "schema": 1,
        "id": spec.id,
        "profile": spec.profile,
        "argv": list(spec.argv),
        "env": dict(sorted(spec.env.items())),
        "cwd": spec.cwd,
        "hash": spec.hash,
        "listen": spec.listen,
        "key_file": spec.key_file,
        **({"inherit": list(spec.inherit)} if spec.inherit else {}),
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def read_program(path: Path) -> ProgramSpec:
    """Return what a program file declares. Raises ValueError or OSError when lmctl cannot have written it."""
    content = launch.read_program(str(path))
    spec = ProgramSpec(
        id=_text(content, "id"),
        profile=_text(content, "profile"),
        argv=_texts(content.get("argv")),
        env=_table(content.get("env")),
        cwd=_text(content, "cwd"),
        hash=_text(content, "hash"),
        listen=_text(content, "listen"),
        key_file=None if content.get("key_file") is None else _text(content, "key_file"),
        inherit=_texts(content.get("inherit", [])),
    )
    if spec.id != path.stem:
        raise ValueError("its id is not its name")
    return spec


def _text(content: Mapping[str, object], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("argv or inherit is not a list of strings")
    return tuple(value)


def _table(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("env is not a table of strings")
    return value


def sections(programs: Iterable[ProgramSpec], socket: str, log_max_bytes: int) -> dict[str, str]:
    """Return the text of each block of supervisord.conf by program id, the head under "".

    `log_max_bytes` is for one program, all its log files together.
    Raises E-SUPERVISOR for an id or a hash that lmctl does not form: nothing else of a program gets into the file.
    """
    ordered = sorted(programs, key=lambda spec: spec.id)
    blocks = {"": _HEAD.format(descriptors=descriptors(len(ordered)), socket=socket)}
    for spec in ordered:
        if not _ID.fullmatch(spec.id) or not _HASH.fullmatch(spec.hash) or spec.id in blocks:
            raise LmctlError(
                "E-SUPERVISOR", f"{escape(spec.id)} cannot be the id of a program", fix="report this, it is a bug"
            )
        blocks[spec.id] = _PROGRAM.format(
            id=spec.id,
            autostart="true" if spec.autostart else "false",
            stop=spec.stop_seconds,
            log_bytes=max(4096, log_max_bytes // _LOG_FILES),
            log_backups=_LOG_FILES - 1,
            hash=spec.hash,
        )
    return blocks


def join(blocks: Mapping[str, str]) -> str:
    """Return the whole file."""
    return "\n".join(blocks.values())


def split(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the blocks of a file as `sections` made them, and the names of sections that it never makes."""
    head, *programs = re.split(r"^(?=\[program:)", text, flags=re.MULTILINE)
    blocks, foreign = {"": head.removesuffix("\n") if programs else head}, []
    for index, block in enumerate(programs):
        name = block[len("[program:") : block.find("]")]
        if name in blocks:
            foreign.append(f"program:{name}")
        blocks[name] = block.removesuffix("\n") if index < len(programs) - 1 else block
    headers = re.findall(r"^\[([^]\n]*)\]", text, flags=re.MULTILINE)
    foreign += [name for name in headers if name not in _SECTIONS and not _ID.fullmatch(name.removeprefix("program:"))]
    return blocks, tuple(map(escape, foreign))


def settings(block: str) -> tuple[bool, float]:
    """Return `autostart` and the stop timeout in seconds that a program's block sets."""
    stop = re.search(r"^stopwaitsecs=(\d{1,9})$", block, flags=re.MULTILINE)
    return "\nautostart=true\n" in block, float(stop[1]) if stop else 10.0


def spec_of(name: str, block: str) -> ProgramSpec:
    """Return what a program's block alone tells of it; nothing of the block gets in but what `sections` forms.

    The rest is in the program's file: such a spec is good for a section, and for nothing else.
    """
    autostart, stop = settings(block)
    found = re.search(rf'^environment=LMCTL_HASH="({_HASH.pattern})"$', block, flags=re.MULTILINE)
    digest = found[1] if found else "unknown"
    return ProgramSpec(name, "", (), {}, "/", digest, "", autostart=autostart, stop_timeout=stop)


def with_log_of(block: str, written: str) -> str:
    """Return a program's block with the log size that another block of it sets, if it does."""
    found = re.search(r"^stdout_logfile_maxbytes=\d+$", written, flags=re.MULTILINE)
    return re.sub(r"^stdout_logfile_maxbytes=\d+$", found[0], block, flags=re.MULTILINE) if found else block


def check(text: str, programs: Sequence[ProgramSpec]) -> None:
    """Parse `text` with supervisor's own parser. Raises E-SUPERVISOR unless it holds `programs` and nothing else."""
    # imported here: it takes longer than a whole plan, and only a changed configuration needs it
    from supervisor.options import ServerOptions, UnhosedConfigParser

    try:
        parser = UnhosedConfigParser()
        parser.read_string(text)
        # supervisor looks whether the folder of a log exists, relative to where it runs itself
        parsed = ServerOptions().read_config(StringIO(text.replace("\nstdout_logfile=logs/", "\nstdout_logfile=./")))
        found = {
            group.name: (process.command, process.environment, process.autostart, process.stopwaitsecs)
            for group in parsed.process_group_configs
            for process in group.process_configs
        }
    except Exception as error:  # supervisor's parser raises many kinds
        raise _refused(escape(str(error))) from error
    wanted = {
        spec.id: (f"./launch {spec.id}", {"LMCTL_HASH": spec.hash}, spec.autostart, spec.stop_seconds)
        for spec in programs
    }
    if set(parser.sections()) != {*_SECTIONS, *(f"program:{name}" for name in wanted)} or found != wanted:
        raise _refused("it says something else than was meant")


def _refused(why: str) -> LmctlError:
    return LmctlError(
        "E-SUPERVISOR", f"the new supervisord.conf is not used: {why}", fix="report this, it is a bug; nothing changed"
    )
