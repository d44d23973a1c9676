"""What `download` and `start --model` take, and what is said of what they do not take."""

from __future__ import annotations

import pytest

from lmctl import adhoc
from lmctl.arguments import parse
from lmctl.command import Options
from lmctl.commands import download, start
from lmctl.compose import make_context
from lmctl.errors import LmctlError

COMMANDS = {"download": download, "start": start}


@pytest.fixture
def context(tmp_path, home):
    (tmp_path / "localmodels.toml").write_text('version = 1\nname = "team"\n[profiles.tiny]\nmodel = "o/m"\n')
    return make_context(Options(directory=tmp_path, offline=True), {"HOME": str(home)}, "never")


@pytest.mark.parametrize(
    ("argv", "fix"),
    [
        ("download hf.co/o/n:Q4_K_M", "write `lmctl download o/n --quant Q4_K_M`"),
        (
            "download https://huggingface.co/o/n/blob/v1/w.gguf",
            "write `lmctl download o/n --file w.gguf --revision v1`",
        ),
        ("download tiny", "did you mean `lmctl apply tiny`? On the Hub it is owner/name"),
        ("download another", "write owner/name as on the Hub"),
        ("start --model o/n:Q4_K_M", "write `lmctl start --model o/n --quant Q4_K_M`"),
        ("start --model https://huggingface.co/o/n/blob/main/w.gguf", 'write model = "o/n", file = "w.gguf"'),
        ("start --model tinny", "did you mean `lmctl start tiny`? On the Hub it is owner/name"),
        ("start --model another", "write owner/name as on the Hub, or the path of a file"),
    ],
)
def test_what_names_no_repository_is_refused_with_what_does(context, argv, fix):
    name, args = parse(argv.split())
    with pytest.raises(LmctlError) as caught:
        COMMANDS[name].run(context, args)
    (problem,) = caught.value.problems
    assert (problem.code, problem.fix) == ("E-REPO", fix)
    assert adhoc.profiles(context.folders, "team") == {}


def _keys(context, *argv):
    return start._keys(context, parse(["start", "--model", *argv])[1])


def test_a_file_is_found_from_where_the_person_is(context, tmp_path, home):
    (tmp_path / "w").touch()
    assert _keys(context, "w")["path"] == str(tmp_path / "w")
    assert _keys(context, "~/w.gguf")["path"] == str(home / "w.gguf")
    assert _keys(context, "o/n")["model"] == "o/n"


def test_a_folder_of_gguf_files_is_not_taken_for_mlx(context, tmp_path):
    (tmp_path / "mlx").mkdir()
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/w.gguf").touch()
    assert _keys(context, "mlx")["backend"] == "mlx"
    assert "backend" not in _keys(context, "gguf")


def test_a_name_is_neither_declared_nor_reserved(context):
    taken = start._taken(context.declaration())
    assert adhoc.name_for("Tiny.gguf", taken) == "tiny-2"
    assert adhoc.name_for("local.gguf", taken) == "local-2"
