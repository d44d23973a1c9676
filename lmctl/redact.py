"""Text that may leave this machine: without secrets, and without the names of its user, its host and its home."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lmctl.errors import LmctlError
from lmctl.paths import Folders, read_regular
from lmctl.secret import LOOKS_SECRET, NAMES_SECRET
from lmctl.spec import Json

_HIDDEN = "(hidden)"
_SHORT = 6  # characters below which a value is no secret, and would be found everywhere
_EVERYBODY = {"root", "localhost", "home", "user", "lmctl", "nobody"}  # names that tell nothing
_QUERY = re.compile(r"(?<=\w)\?[^\s\"'()]+")
_USERINFO = re.compile(r"//[^/@\s]+@")
_HOMES = re.compile(r"(?<![\w.-])/(home|Users)/(?!\()[^/\s\"']+")


class Redactor:
    """Knows what must not be told.

    `secrets` are values that are secret whatever they look like; `instead` are names, and what stands in for each.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        home: Path,
        secrets: Iterable[str] = (),
        instead: Mapping[str, str] | None = None,
    ) -> None:
        named = (value for name, value in environ.items() if NAMES_SECRET.search(name))
        self._secrets = sorted({s.strip() for s in (*named, *secrets) if len(s.strip()) >= _SHORT}, key=len)[::-1]
        self._homes = sorted({str(home), os.path.realpath(home)} - {"/"}, key=len)[::-1]
        host = os.uname().nodename
        longest_first = sorted((instead or {}).items(), key=lambda pair: -len(pair[0]))
        self._instead = [
            (re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), word) for name, word in longest_first
        ]
        self._names = [
            (_word(_users(environ, home)), "(user)"),
            (_word({host, host.partition(".")[0]}), "(host)"),
        ]

    def hide(self, text: str) -> str:
        """Return `text` without secrets, names and paths as they are."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        text = LOOKS_SECRET.sub(_HIDDEN, text)
        return _QUERY.sub(f"?{_HIDDEN}", _USERINFO.sub(f"//{_HIDDEN}@", text))

    def text(self, text: str) -> str:
        """Return `text` without secrets and names."""
        text = self.hide(text)
        for name, word in self._instead:
            text = name.sub(word, text)
        for home in self._homes:
            text = text.replace(home, "~")
        text = _HOMES.sub(r"/\1/(user)", text)
        for pattern, instead in self._names:
            text = pattern.sub(instead, text) if pattern else text
        return text

    def plain(self, value: Json) -> Json:
        """Return a JSON value with all of its texts, keys included, made so."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.plain(item) for item in value]
            case dict():
                return {self.text(key): self.plain(item) for key, item in value.items()}
            case _:
                return value


def tokens(environ: Mapping[str, str], folders: Folders) -> list[str]:
    """Return what the files hold that the Hub's token can be read from, whichever of them counts now."""
    named = (environ.get("HF_TOKEN_PATH"), _of_machine(folders))
    found = []
    for path in (folders.hf_home / "token", *(Path(path) for path in named if path)):
        with contextlib.suppress(LmctlError, OSError, ValueError):
            found.append(read_regular(path, 4096).decode("utf-8", "replace"))
    return found


def _of_machine(folders: Folders) -> Path | None:
    """Return the file that machine.toml names, None where it names none or cannot be read."""
    import tomllib  # only where something is written down or goes wrong

    try:
        machine = tomllib.loads(read_regular(folders.config / "machine.toml", 1 << 20).decode("utf-8-sig"))
        named: str = machine["hub"]["token_file"]
        return folders.home / named[2:] if named.startswith("~/") else folders.config / named
    except (LmctlError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _users(environ: Mapping[str, str], home: Path) -> set[str]:
    found = {environ.get("USER", ""), environ.get("LOGNAME", ""), home.name}
    with contextlib.suppress(KeyError):  # a user without an entry
        found.add(pwd.getpwuid(os.geteuid()).pw_name)
    return found


def _word(names: Iterable[str]) -> re.Pattern[str] | None:
    """Return what matches any of `names` where it stands by itself; None when they say nothing."""
    telling = sorted({name for name in names if len(name) > 1 and name.lower() not in _EVERYBODY}, key=len)[::-1]
    if not telling:
        return None
    return re.compile(rf"(?i)(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, telling))})(?![A-Za-z0-9])")
