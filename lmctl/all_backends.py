"""The registry of backends: a new engine is one file and one line here."""

from __future__ import annotations

from lmctl.backend import Backend
from lmctl.backends import command, llama_cpp, mlx

BACKENDS: dict[str, Backend] = {
    llama_cpp.NAME: llama_cpp,
    mlx.NAME: mlx,
    command.NAME: command,
}
