"""The single catch: what a command raises, and how it is told."""

from __future__ import annotations

import errno

import pytest

from lmctl import dispatch


class Raises:
    """A command that fails with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(errno.ENOSPC, "E-SPACE", id="F4-full"),
        pytest.param(errno.EDQUOT, "E-SPACE", id="F5-quota"),
        pytest.param(errno.EFBIG, "E-SPACE", id="F5-too-big"),
        pytest.param(errno.EIO, "E-IO", id="F3-broken"),
    ],
)
def test_what_the_disk_refuses_is_no_defect_of_lmctl(number, code, monkeypatch, capsys, tmp_path):
    error = OSError(number, "refused", str(tmp_path / "a file"))
    monkeypatch.setattr(dispatch, "load", lambda _: Raises(error))
    assert dispatch.dispatch(["plan"]) == 8
    assert capsys.readouterr().err.startswith(f"error[{code}]: {tmp_path}/a file cannot be written")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_F55_a_path_that_is_closed_is_no_defect_of_lmctl(number, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(dispatch, "load", lambda _: Raises(OSError(number, "refused", str(tmp_path / "a file"))))
    assert dispatch.dispatch(["plan"]) == 8
    assert capsys.readouterr().err.startswith(f"error[E-PERM]: {tmp_path}/a file: ")
    monkeypatch.setattr(dispatch, "load", lambda _: Raises(OSError(number, "refused")))  # of no file: a signal, say
    assert dispatch.dispatch(["plan"]) == 1


def test_F64_a_path_that_is_too_long_from_here_is_no_defect_of_lmctl(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(dispatch, "load", lambda _: Raises(OSError(errno.ENAMETOOLONG, "refused", "/a" * 2048)))
    assert dispatch.dispatch(["plan"]) == 65
    assert "is longer than this system takes — shorten it" in capsys.readouterr().err


def test_any_other_error_is_a_defect_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "load", lambda _: Raises(OSError(errno.EBADF, "what")))
    assert dispatch.dispatch(["plan"]) == 1
    assert "error[E-BUG]" in capsys.readouterr().err


def test_a_working_folder_that_was_removed_is_said_so(monkeypatch, capsys, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert dispatch.dispatch(["validate"]) == 65
    assert "does not exist any more" in capsys.readouterr().err
