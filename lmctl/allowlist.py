"""What a declaration may pass to an engine by itself: rules as data, and the refusals that follow from them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from lmctl.errors import Problem, escape
from lmctl.record import NOTHING, record

MAX_ARGS, MAX_ARG, MAX_ENV = 256, 4096, 64  # items, characters of one, variables

# Text, compiled when first used: a plan with nothing to check has no use for them.
_ENV_NAME = r"[A-Z_][A-Z0-9_]{0,127}"
_FLAG = r"--?[A-Za-z]"  # a value such as -1 is none
# What loads code into the engine, points it at another home or credential, or repeats a flag that lmctl manages.
_ENV_NEVER = (
    r"LD_.*|DYLD_.*|PYTHON.*|LLAMA_ARG_.*|LMCTL_.*|SUPERVISOR_.*|OLLAMA_.*|VLLM_.*|HF_.*|HUGGING.*|TRANSFORMERS_.*|GCONV_PATH"
    r"|GGML_BACKEND_.*|CUDA_INJECTION.*|VK_.*(LAYER|FILE|FILES|FILENAMES|PATH)|OCL_ICD_.*|.*_PROXY|PATH|HOME|USER|SHELL|IFS|ENV"
    r"|BASH_.*|NODE_.*|GIT_.*|SSH_.*|TMPDIR|LANG|LC_.*|XDG_.*|.*(_TOKEN|_SECRET|_PASSWORD|_API_KEY|_ACCESS_KEY)"
)


@record
class Group:
    """Flags (each with the number of values it takes) or variable names that are harmless, and why they are."""

    why: str
    flags: Mapping[str, int] = NOTHING
    env: tuple[str, ...] = ()


@record
class Rules:
    """One engine's rules: `managed` maps each flag that lmctl writes to the key to declare, "" where there is none."""

    groups: tuple[Group, ...]
    managed: Mapping[str, str]
    secret: frozenset[str] = frozenset()

    @cached_property
    def flags(self) -> dict[str, int]:
        return {flag: values for group in self.groups for flag, values in group.flags.items()}

    @cached_property
    def env(self) -> frozenset[str]:
        return frozenset(name for group in self.groups for name in group.env)


def allow(permission: str) -> str:
    """Return how this machine's owner allows all of that kind to a declaration."""
    return f'allow it on this machine: in machine.toml, `[allow]`, add "{permission}" for this declaration'


def names(text: str, values: int) -> dict[str, int]:
    """Return the flags of a space-separated list, each taking `values` values."""
    return dict.fromkeys(text.split(), values)


def by_flag(keys: Mapping[str, str]) -> dict[str, str]:
    """Return the key of each flag, given the space-separated flags of each key."""
    return {flag: key for key, flags in keys.items() for flag in flags.split()}


def check_args(args: Sequence[str], rules: Rules, trusted: bool) -> tuple[Problem, ...]:
    """Return why `extra_args` may not be passed on: E-LIMIT, E-ARG, E-SECRET, E-FLAG, E-UNSAFE. Values are never shown.

    `trusted`: this machine's owner allowed flags for this declaration; then only managed and secret ones are refused.
    """
    if len(args) > MAX_ARGS:
        return (Problem("E-LIMIT", f"extra_args has {len(args)} items, more than {MAX_ARGS}", "remove some"),)
    broken = tuple(_broken_args(args))
    return broken or tuple(_refused_flags(args, rules, trusted))


def _broken_args(args: Sequence[str]) -> Iterator[Problem]:
    for number, arg in enumerate(args, 1):
        if len(arg) > MAX_ARG:
            yield Problem("E-LIMIT", f"extra_args: item {number} has more than {MAX_ARG} characters", "shorten it")
        elif _unprintable(arg):
            yield Problem("E-ARG", f"extra_args: item {number} holds a control character", "write it on one line")


def _refused_flags(args: Sequence[str], rules: Rules, trusted: bool) -> Iterator[Problem]:
    allowed = rules.flags
    values = 0  # how many values the flag before may still take
    for number, arg in enumerate(args, 1):
        if not re.match(_FLAG, arg):
            if values == 0 and not trusted:
                yield Problem("E-ARG", f"extra_args: item {number} belongs to no flag", "put its flag before it")
            values = max(0, values - 1)
            continue
        flag, equals, _ = arg.partition("=")
        values = allowed.get(flag, 0)
        if problem := _refused_flag(flag, bool(equals), rules, trusted):
            values = len(args)  # what follows belongs to it: one refusal is enough
            yield problem


def _refused_flag(flag: str, equals: bool, rules: Rules, trusted: bool) -> Problem | None:
    shown = f"extra_args: {escape(flag, 60)}"
    if any(abbreviates(flag, secret) for secret in rules.secret):
        return Problem("E-SECRET", f"{shown} carries a secret", "name a key file in machine.toml instead")
    if flag in rules.flags:
        fix = "write the flag and its value as two items"
        return Problem("E-ARG", f"{shown} is written with `=`", fix) if equals else None
    managed = next((known for known in rules.managed if abbreviates(flag, known)), None)
    if managed is not None:
        key = rules.managed[managed]
        return Problem("E-FLAG", f"{shown} is managed by lmctl", f"declare `{key}` instead" if key else "remove it")
    if trusted:
        return None
    what = f"{shown} is not on the list of harmless flags{_near(flag, rules)} and needs machine-local allow"
    return Problem("E-UNSAFE", what, allow("flags"))


def _near(flag: str, rules: Rules) -> str:
    import difflib  # only for mistakes

    near = difflib.get_close_matches(flag, [*rules.flags, *rules.managed], n=1, cutoff=0.75)
    key = rules.managed.get(near[0]) if near else None
    return f" (near is {near[0]}{f', declared as `{key}`' if key else ''})" if near else ""


def abbreviates(flag: str, known: str) -> bool:
    """True when an option parser could take `flag` for `known`: equal ignoring `_` for `-`, or a long prefix of it."""
    flag = flag.lower().replace("_", "-") if flag.startswith("--") else flag
    return flag == known or (flag.startswith("--") and len(flag) > 2 and known.startswith(flag))


def check_env(env: Mapping[str, str], allowed: Iterable[str], trusted: bool) -> tuple[Problem, ...]:
    """Return why the declared environment may not be passed on: E-LIMIT, E-ENV, E-ARG. Values are never shown."""
    if len(env) > MAX_ENV:
        return (Problem("E-LIMIT", f"env has {len(env)} names, more than {MAX_ENV}", "remove some"),)
    known = frozenset(allowed)
    checked = (_refused_name(name, value, known, trusted) for name, value in env.items())
    return tuple(problem for problem in checked if problem)


def _refused_name(name: str, value: str, known: frozenset[str], trusted: bool) -> Problem | None:
    shown = f"env: `{escape(name, 60)}`"
    if not re.fullmatch(_ENV_NAME, name):
        return Problem("E-ENV", f"{shown} is not a name of a variable", "use upper case letters, digits and _")
    if re.fullmatch(_ENV_NEVER, name):
        return Problem("E-ENV", f"{shown} is not allowed in a declaration", "remove it")
    if name not in known and not trusted:
        return Problem("E-ENV", f"{shown} is not allowed in a project file", allow("env"))
    if len(value) > MAX_ARG:
        return Problem("E-LIMIT", f"{shown} has more than {MAX_ARG} characters", "shorten it")
    return (
        Problem("E-ARG", f"{shown} holds a control character", "write it on one line") if _unprintable(value) else None
    )


def _unprintable(text: str) -> bool:
    return any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text)
