"""The gateway takes on what is declared anew, also when it changes while it is being read."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from lmctl.commands import gateway
from lmctl.gateway import state


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Return what follows one file, and what is called whenever that was read."""
    file, after = tmp_path / "localmodels.toml", list[Any]()
    file.write_text("first")

    def made(session: object, environ: object, *, offline: bool) -> SimpleNamespace:
        found = SimpleNamespace(text=file.read_text(), files=(file,), notes=())
        if after:
            after.pop()()
        return found

    monkeypatch.setattr(state, "of", made)
    monkeypatch.setattr(gateway, "in_force", lambda context: None)
    context: Any = SimpleNamespace(environ={}, options=SimpleNamespace(offline=False), err=io.StringIO())
    return file, after, lambda: gateway._Follower(context, None)  # type: ignore[arg-type]


def test_what_changes_while_it_is_read_is_read_once_more(follow):
    file, after, begin = follow
    after.append(lambda: file.write_text("while it began"))
    follower = begin()
    assert follower.look().text == "while it began"
    after.append(lambda: file.write_text("meanwhile, longer"))
    file.write_text("second")
    assert follower.look().text == "second"
    assert follower.look().text == "meanwhile, longer"
    assert follower.look() is None
