"""Every test runs in an empty home with a clean environment; touching the real home fails the test."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's doing
hypothesis.settings.load_profile("any machine")

_REAL_HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
_OURS = (".config/lmctl", ".local/state/lmctl", ".cache/lmctl", ".cache/huggingface/lmctl")
_DROPPED = ("LMCTL_", "HF_", "XDG_", "HUGGING", "LLAMA_", "OLLAMA_", "VLLM_")


def _seen() -> dict[str, int]:
    return {name: (_REAL_HOME / name).stat().st_mtime_ns for name in _OURS if (_REAL_HOME / name).exists()}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """An empty HOME of the test's own; its path is short because unix sockets live under it."""
    folder = tmp_path_factory.mktemp("h")
    for variable in list(os.environ):
        if variable.startswith(_DROPPED) or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(folder))
    before = _seen()
    yield folder
    assert _seen() == before, "the test touched the real home"
