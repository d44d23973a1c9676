"""Which engine serves a backend, and whether it can run: real executables in folders of the test's own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from fakes import llama_server
from supervised import until

from lmctl.backend import Engine
from lmctl.errors import LmctlError
from lmctl.hosts import pids
from lmctl.hosts.engines import Engines

FLAGS = ("--model", "/w/m.gguf", "--cors-origins", "", "--temp", "-1")
TOOLS = "/usr/bin:/bin"
EMBEDDED = Engine(("{python}", "-P", "-m", "lmctl.embedded"), embedded=True)


@pytest.fixture
def bin(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def engines(bin: Path, tmp_path: Path) -> Callable[..., Engines]:
    def make(binaries: Mapping[str, str] | None = None, path: str = "", timeout: float = 60.0) -> Engines:
        return Engines(binaries or {}, f"{bin}:{path}", tmp_path / "cache", timeout)

    return make


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    """An executable that counts its runs in `<path>.runs`."""
    path.write_text(f'#!/bin/sh\necho run >>"$0.runs"\n{text}\n')
    path.chmod(mode)
    return path


def runs(path: Path) -> int:
    counted = path.with_name(f"{path.name}.runs")
    return len(counted.read_text().splitlines()) if counted.exists() else 0


def refused(ask: Callable[[], object]) -> str:
    with pytest.raises(LmctlError) as error:
        ask()
    assert error.value.code == "E-ENGINE"
    assert error.value.problems[0].fix
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- which one ----


def test_a_configured_binary_comes_first(bin: Path, engines: Callable[..., Engines]) -> None:
    llama_server.install(bin)
    own = llama_server.install(bin, "mine")
    assert engines({"llama.cpp": str(own)}).find("llama.cpp") == Engine((str(own),))


def test_a_configured_llama_serves_by_its_subcommand(bin: Path, engines: Callable[..., Engines]) -> None:
    unified = llama_server.install(bin, "llama")
    assert engines({"llama.cpp": str(unified)}).find("llama.cpp") == Engine((str(unified), "serve"))


def test_then_llama_server_on_the_path_then_llama(bin: Path, engines: Callable[..., Engines]) -> None:
    unified = llama_server.install(bin, "llama")
    assert engines().find("llama.cpp") == Engine((str(unified), "serve"))
    server = llama_server.install(bin)
    assert engines().find("llama.cpp") == Engine((str(server),))


def test_then_the_embedded_one(engines: Callable[..., Engines]) -> None:
    pytest.importorskip("xllamacpp")
    assert engines().find("llama.cpp") == EMBEDDED


def test_then_none(engines: Callable[..., Engines], no_packages: None) -> None:
    assert engines().find("llama.cpp") is None
    assert engines().find("mlx") is None


def test_mlx_comes_from_our_own_python_before_the_path(
    bin: Path, engines: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(bin / "mlx_lm.server", "exit 0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = engines().find("mlx")
    assert found is not None and found.argv == ("{python}", "-P", "-m", "mlx_lm", "server")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engines().find("mlx") == Engine((str(bin / "mlx_lm.server"),))


def test_a_command_is_its_own_engine(engines: Callable[..., Engines]) -> None:
    assert engines().find("command") == Engine(())


def test_a_folder_of_the_project_is_no_part_of_the_path(
    bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_packages: None
) -> None:
    llama_server.install(bin)
    monkeypatch.chdir(bin)
    for path in ("", ".", ":", "./", "../bin"):
        assert Engines({}, path, tmp_path).find("llama.cpp") is None


def test_finding_imports_and_runs_nothing(bin: Path, engines: Callable[..., Engines]) -> None:
    program = script(bin / "llama-server", "exit 0")
    before = {name for name in sys.modules if name.startswith(("xllamacpp", "mlx"))}
    engines().find("llama.cpp")
    engines().find("mlx")
    engines().version("llama.cpp")
    assert {name for name in sys.modules if name.startswith(("xllamacpp", "mlx"))} == before
    assert runs(program) == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda bin: "llama-server", "not an absolute path", id="F80-relative"),
        pytest.param(lambda bin: str(bin / "gone"), "No such file", id="F80-missing"),
        pytest.param(lambda bin: str(bin), "is not a file", id="F80-folder"),
        pytest.param(lambda bin: str(script(bin / "x", "", 0o644)), "is not executable", id="F80-not-executable"),
    ],
)
def test_configured_binaries_that_cannot_be(
    make: Callable[[Path], str], says: str, bin: Path, engines: Callable[..., Engines]
) -> None:
    assert says in refused(lambda: engines({"llama.cpp": make(bin)}).find("llama.cpp"))


# ---- whether it runs ----


def checked(engines: Engines, argv: tuple[str, ...] = FLAGS) -> str | None:
    engine = engines.find("llama.cpp")
    assert engine is not None
    return engines.check("llama.cpp", (*engine.argv, *argv), Path("/"))


def test_the_version_is_asked_once_per_file(bin: Path, engines: Callable[..., Engines], tmp_path: Path) -> None:
    program = script(bin / "llama-server", 'echo "version: 12 (ab)" >&2; echo "--model --cors-origins --temp N"')
    assert engines().version("llama.cpp") is None
    assert checked(engines()) == "12 (ab)"
    asked = runs(program)
    assert checked(engines()) == engines().version("llama.cpp") == "12 (ab)"
    assert runs(program) == asked
    (note,) = (tmp_path / "cache" / "engines").iterdir()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    note.write_text("{half")
    assert checked(engines()) == "12 (ab)"
    assert runs(program) == 2 * asked
    os.utime(program, ns=(1, 1))
    assert engines().version("llama.cpp") is None


def test_the_stand_in_runs(bin: Path, engines: Callable[..., Engines]) -> None:
    llama_server.install(bin)
    assert checked(engines()) == "11549 (0a1b2c3d)"


def test_F80_an_unknown_flag_is_seen_before_anything_stops(bin: Path, engines: Callable[..., Engines]) -> None:
    llama_server.install(bin)
    assert "does not know --brand-new" in refused(lambda: checked(engines(), (*FLAGS, "--brand-new", "1")))


def test_F80_an_abbreviation_of_a_known_flag_is_unknown(bin: Path, engines: Callable[..., Engines]) -> None:
    llama_server.install(bin)
    assert "does not know --mode" in refused(lambda: checked(engines(), ("--mode", "/w/m.gguf")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("exit 0", "prints no flags: nothing at all", id="F80-silent"),
        pytest.param('printf "\\033[31mhello\\n"', "prints no flags: \\x1b[31mhello", id="F80-something-else"),
        pytest.param("kill -9 $$", "ends with SIGKILL", id="F80-killed"),
        pytest.param("kill -11 $$", "ends with SIGSEGV", id="F80-segfault"),
    ],
)
def test_programs_that_are_no_engine(text: str, says: str, bin: Path, engines: Callable[..., Engines]) -> None:
    script(bin / "llama-server", text)
    assert says in refused(lambda: checked(engines()))


def test_F80_another_architecture(bin: Path, engines: Callable[..., Engines]) -> None:
    program = bin / "llama-server"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xff\xff" + bytes(200))
    program.chmod(0o755)
    assert re.search("does not run here: .*format", refused(lambda: checked(engines())))


def test_F80_a_missing_interpreter(bin: Path, engines: Callable[..., Engines]) -> None:
    program = bin / "llama-server"
    program.write_text("#!/nowhere/python\n")
    program.chmod(0o755)
    assert "does not run here" in refused(lambda: checked(engines()))


def test_a_program_that_hangs_is_killed_with_its_children(bin: Path, engines: Callable[..., Engines]) -> None:
    program = script(bin / "llama-server", 'sleep 600 & echo $! >"$0.pid"; wait')
    pid = program.with_name("llama-server.pid")
    for timeout in (0.5, 5.0, 60.0):  # until it got as far as having a child
        assert "says nothing" in refused(lambda: checked(engines(path=TOOLS, timeout=timeout)))  # noqa: B023
        if pid.exists():
            break
    until(lambda: pids.stat(int(pid.read_text())) is None)


def test_endless_output_is_cut(bin: Path, engines: Callable[..., Engines]) -> None:
    script(bin / "llama-server", "exec yes -- '--model --cors-origins --temp'")
    assert checked(engines(path=TOOLS)) is None


def test_a_program_sees_no_secret(
    bin: Path, engines: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY")
    monkeypatch.setenv("LLAMA_ARG_TOOLS", "all")
    script(bin / "llama-server", 'env >>"$0.env"; echo "version: 1 --model --cors-origins --temp"')
    checked(engines(path=TOOLS))
    seen = (bin / "llama-server.env").read_text()
    assert "CANARY" not in seen and "LLAMA_ARG" not in seen and "HOME=" in seen


def test_a_command_is_looked_for_and_not_run(bin: Path, tmp_path: Path, engines: Callable[..., Engines]) -> None:
    program = script(bin / "serve", "exit 0")
    assert engines().check("command", ("serve", "--port", "1"), tmp_path) is None
    assert engines().check("command", ("bin/serve",), tmp_path) is None
    assert engines().check("command", (str(program),), tmp_path) is None
    assert runs(program) == 0
    assert "is not on PATH" in refused(lambda: engines().check("command", ("gone",), tmp_path))
    assert "No such file" in refused(lambda: engines().check("command", ("./serve",), tmp_path))


def test_the_embedded_engine_tells_its_package(engines: Callable[..., Engines]) -> None:
    pytest.importorskip("xllamacpp")
    version = engines().check("llama.cpp", (*EMBEDDED.argv, *FLAGS), Path("/"))
    assert version is not None and re.match(r"\d+\.\d+", version)


def test_F80_a_package_that_went_away(engines: Callable[..., Engines], no_packages: None) -> None:
    says = refused(lambda: engines().check("llama.cpp", (*EMBEDDED.argv, *FLAGS), Path("/")))
    assert "no engine for backend llama.cpp" in says
    assert "brew install" in says


def test_what_is_remembered_is_plain_json(bin: Path, engines: Callable[..., Engines], tmp_path: Path) -> None:
    llama_server.install(bin)
    checked(engines())
    (note,) = (tmp_path / "cache" / "engines").iterdir()
    assert set(json.loads(note.read_text())) == {"key", "version", "flags"}
