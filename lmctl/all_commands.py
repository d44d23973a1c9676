"""The registry of commands: name -> group and help line; the module is imported when its command runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lmctl import __version__
from lmctl.errors import DONE
from lmctl.errors import USAGE as EXIT_USAGE

if TYPE_CHECKING:
    from lmctl.command import Command

USAGE = "lmctl [-C DIR] [--config FILE] [--set KEY=VALUE] [--json] [-q | -v] [--offline] COMMAND …"
GROUPS = {
    "declare": "declare what you want",
    "reconcile": "make it so",
    "run": "run it",
    "choose": "find and fetch",
    "account": "look at what it does for you",
    "shell": "shell",
}

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("declare", "write a first localmodels.toml"),
    "validate": ("declare", "check the configuration"),
    "config": ("declare", "show the resolved configuration and where each value comes from"),
    "schema": ("declare", "print or write the JSON Schemas"),
    "profile": ("declare", "add, change or remove a profile; comments stay"),
    "trust": ("declare", "show what the files would execute or open, and allow it on this machine"),
    "lock": ("declare", "resolve every artifact to a commit, sizes and sha256"),
    "outdated": ("declare", "show what upstream has moved since it was locked"),
    "plan": ("reconcile", "show what apply would change, and why"),
    "apply": ("reconcile", "make this machine what the configuration says"),
    "drift": ("reconcile", "show what is not as declared, who moved, and what mends it"),
    "history": ("reconcile", "list the applies, or show the plan of one"),
    "watch": ("reconcile", "apply what is saved as it is saved, and tell of drift"),
    "rollback": ("reconcile", "go back to an earlier apply, until the next one"),
    "prune": ("reconcile", "remove what lmctl fetched and nothing declares any more"),
    "verify": ("reconcile", "compare weights on disk with the lock"),
    "doctor": ("reconcile", "look for what is wrong on this machine, and mend what is safe"),
    "down": ("reconcile", "stop every program and supervisord"),
    "service": ("reconcile", "let supervisord come up at login"),
    "uninstall": ("reconcile", "stop everything and remove what lmctl brought and wrote"),
    "gateway": ("run", "answer on one OpenAI-compatible address for every profile"),
    "start": ("run", "start a profile, or a model that nothing declares"),
    "stop": ("run", "stop a profile until it is started again"),
    "restart": ("run", "stop and start a profile"),
    "status": ("run", "show every profile: process, health, memory, address"),
    "logs": ("run", "print the log of a profile"),
    "download": ("choose", "fetch a repository's files into the cache"),
    "usage": ("account", "show requests and tokens, and what they would have cost elsewhere"),
    "cleanup": ("account", "show models that nobody uses, and remove what nothing declares"),
    "completion": ("shell", "print the completion script of bash, zsh or fish"),
}


def load(name: str) -> Command:
    """Return the module of a command (names are the registry's own)."""
    module: Command = importlib.import_module(f"lmctl.commands.{name}")
    return module


def about(arguments: list[str]) -> tuple[str, int]:
    """Return what to print where no command is named: the version, or the first screen; and the exit code."""
    if arguments == ["--version"]:
        return f"lmctl {__version__}", DONE
    lines = [f"usage: {USAGE}", "", "Plan and apply for local language models.", ""]
    for group, title in GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<12}{text}" for name, (where, text) in COMMANDS.items() if where == group]
        lines.append("")
    lines.append("`lmctl COMMAND --help` tells the rest. Start with `lmctl init`, then `lmctl plan`.")
    return "\n".join(lines), DONE if arguments else EXIT_USAGE
