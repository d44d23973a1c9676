"""Every test runs in an empty home with a clean environment; touching the real home fails the test."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["kinds"]

# A shell starts what it runs in the background with these ignored, and every process of a test would inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

_REAL_HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
_OURS = (".config/lmctl", ".local/state/lmctl", ".cache/lmctl", ".cache/huggingface/lmctl")
_DROPPED = ("LMCTL_", "HF_", "XDG_", "HUGGING", "LLAMA_", "OLLAMA_", "VLLM_")

settings.register_profile("long", settings.get_profile("ci"), derandomize=False, print_blob=True)  # tests/stateful
settings.load_profile("ci")  # the same examples in every run, and no limit of time that a busy machine would pass


def _seen() -> dict[str, int]:
    return {name: (_REAL_HOME / name).stat().st_mtime_ns for name in _OURS if (_REAL_HOME / name).exists()}


def _empty(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for variable in list(os.environ):
        if variable.startswith(_DROPPED) or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(folder))


@pytest.fixture(autouse=True, scope="session")
def _nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Show no real home to what is made once for several tests either."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _empty(monkeypatch, tmp_path_factory.mktemp("nobody"))
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """An empty HOME of the test's own; its path is short because unix sockets live under it."""
    folder = tmp_path_factory.mktemp("h")
    _empty(monkeypatch, folder)
    before = _seen()
    yield folder
    assert _seen() == before, "the test touched the real home"
