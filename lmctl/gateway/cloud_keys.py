"""The key of a cloud, from a variable or a file that only its owner can read; it is never shown."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.front import Cloud
from lmctl.paths import open_regular
from lmctl.secret import Secret

_LONGEST = 4096  # characters of a key
_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % _LONGEST)  # what may stand in a header, without spaces


def key(cloud: Cloud, environ: Mapping[str, str]) -> Secret | None:
    """Return the key of a cloud, None where it declares none. Raises E-SECRET, and for a file E-FILE or E-PERM."""
    if cloud.key_file is not None:
        return _checked(_content(cloud.key_file), escape(str(cloud.key_file), 300), f"cloud {cloud.name}")
    if cloud.key_env is None:
        return None
    if not environ.get(cloud.key_env):
        what = f"the key of cloud {cloud.name} is missing: the variable {cloud.key_env} is not set"
        fix = f"start lmctl where it is (`lmctl down`, `lmctl apply`), or declare a key_file in [cloud.{cloud.name}]"
        raise LmctlError("E-SECRET", what, fix=fix)
    value = os.fsencode(environ[cloud.key_env])
    return _checked(value, f"the variable {cloud.key_env}", f"cloud {cloud.name}")


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            shown = escape(str(path), 300)
            raise LmctlError("E-PERM", f"{shown} can be read by others", fix=f"chmod 600 {shown}")
        return file.read(_LONGEST + 3)


def _checked(content: bytes, where: str, whose: str) -> Secret:
    value = content.strip(b" \t\r\n")
    if not _KEY.fullmatch(value):
        what = f"{where} holds no key of {whose}: it must be one line of visible ASCII without spaces"
        raise LmctlError("E-SECRET", what, fix="write the key alone into it")
    return Secret(value)
