"""The folders that lmctl works in: whether they are there, this user's, on a file system that can do what is needed."""

from __future__ import annotations

from collections.abc import Iterator

from lmctl.doctor.finding import Finding, fail, ok, warn
from lmctl.errors import LmctlError, escape
from lmctl.premises import Ground
from lmctl.text import human_bytes

_REMOTE = ("nfs", "cifs", "smb", "afpfs", "9p", "fuse.sshfs", "webdav", "davfs")
_LITTLE = 1 << 30  # bytes below which a disk counts as nearly full


def state(ground: Ground) -> Iterator[Finding]:
    """Judge the state folder: everything that runs depends on it."""
    yield _usable("state folder", ground)
    shown = escape(str(ground.path))
    if ground.options & {"noexec"}:
        what = f"{shown}: its file system forbids to execute files, and supervisord starts a script there"
        yield fail("state folder", LmctlError("E-IO", what, fix="let XDG_STATE_HOME name another file system"))
    if _remote(ground):
        what = f"{shown} lies on {ground.kind}: locks and sockets are not sure to work there"
        yield warn("state folder", what, "let XDG_STATE_HOME name a disk of this machine")


def cache(ground: Ground) -> Iterator[Finding]:
    """Judge lmctl's own cache: without it plans are slow, nothing else."""
    found = _usable("cache folder", ground)
    if found.state == "fail":
        yield warn("cache folder", found.what, found.fix or "")
    else:
        yield found


def weights(hub: Ground, own: Ground) -> Iterator[Finding]:
    """Judge the Hugging Face cache, and lmctl's folder for partial files beside it.

    A cache that cannot be written still serves what is in it.
    """
    found, shown = _usable("weights", hub), escape(str(hub.path))
    if found.state == "fail":
        yield warn("weights", f"{found.what}: nothing can be fetched", found.fix or "")
    else:
        yield found
    if _remote(hub):
        what = f"{shown} lies on {hub.kind}: models load slowly, and locks are not sure to work"
        yield warn("weights", what, "let HF_HUB_CACHE name a disk of this machine")
    if hub.folds_case:
        what = f"{shown}: names that differ in case alone are one there, and repositories may hold such"
        yield warn("weights", what, "use a file system that tells upper from lower case")
    if hub.device != own.device:
        what = f"{escape(str(own.path))} and {shown} lie on different file systems: nothing can be moved into place"
        yield fail("weights", LmctlError("E-IO", what, fix="let HF_HOME and HF_HUB_CACHE name one file system"))


def private(check: str, ground: Ground) -> Iterator[Finding]:
    """Judge a folder of which others may read nothing."""
    if ground.exists and ground.mode & 0o022:
        shown = escape(str(ground.path))
        yield warn(check, f"{shown}: other users may write there", f"chmod go-w {shown}")


def _usable(check: str, ground: Ground) -> Finding:
    shown = escape(str(ground.path))
    fix = "check who owns it and its permissions"
    where = shown if ground.exists else f"{shown} does not exist, and {escape(str(ground.there))}"
    if not ground.folder:
        return fail(check, LmctlError("E-PERM", f"{where} is no folder that can be opened", fix="move it away"))
    if ground.options & {"ro"}:
        return fail(
            check, LmctlError("E-PERM", f"{where} lies on a file system that is read-only", fix="choose another")
        )
    if not ground.writable:
        return fail(check, LmctlError("E-PERM", f"{where} may not be written", fix=fix))
    if ground.exists and not ground.ours:
        return warn(check, f"{shown} belongs to another user", fix)
    about = ", ".join(filter(None, (ground.kind, f"{human_bytes(ground.free)} free")))
    if ground.free < _LITTLE:
        return warn(check, f"{shown}: {about}", "free some space")
    return ok(check, f"{shown} ({about})" + ("" if ground.exists else ", not made yet"))


def _remote(ground: Ground) -> bool:
    return ground.kind.startswith(_REMOTE)
