"""The entry of the command line; what it prints about itself needs next to nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from types import FrameType

from lmctl.all_commands import about
from lmctl.errors import BROKEN_PIPE, CONFIGURATION, DISK, INTERRUPTED, TERMINATED, Terminated

if sys.platform == "win32":
    sys.stderr.write("error[E-PLATFORM]: lmctl runs on Linux and macOS — on Windows run it inside WSL2\n")
    sys.exit(CONFIGURATION)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _complete_streams()
        return _about(arguments) if _asks_about(arguments) else _run(arguments)
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except MemoryError:  # while modules are read; later it is caught where all else is
        sys.stderr.write("error[E-SPACE]: lmctl has not enough memory — free some, or raise its limit (ulimit -v)\n")
        return DISK
    except OSError as error:
        return _unwritable(error)
    finally:
        _let_go_of_streams()


def _complete_streams() -> None:
    """Put /dev/null where a standard stream is closed: the next file opened would become it. Raises OSError."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            os.open(os.devnull, os.O_RDWR)  # becomes the lowest free number, which is this one
            if number == 1:
                raise OSError(error.errno, "stdout is closed") from error
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115 (as long as the process lives)
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def _unwritable(error: OSError) -> int:
    """Say that stdout takes nothing, quietly where the reader has gone; return the exit code."""
    gone = error.errno == errno.EPIPE
    try:
        if not gone:
            why = os.strerror(error.errno or 0)
            fix = "open it, or choose another place" if error.errno == errno.EBADF else "free some space"
            os.write(2, f"error[E-IO]: cannot write output: {why} — {fix}\n".encode())
    except OSError:
        pass  # nobody listens
    return BROKEN_PIPE if gone else DISK


def _let_go_of_streams() -> None:
    """Put /dev/null where nobody listens any more: Python would end with a code of its own when it flushes at exit."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _asks_about(arguments: list[str]) -> bool:
    return arguments in ([], ["-h"], ["--help"], ["--version"])


def _about(arguments: list[str]) -> int:
    text, code = about(arguments)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return code


def _run(arguments: list[str]) -> int:
    import gc  # none of these is needed to print the help
    import io
    import signal

    gc.set_threshold(50_000)  # what a command makes while it starts is kept anyway: looking through it costs 4 ms
    from lmctl.dispatch import dispatch

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any byte, terminals any encoding

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, _terminate)
    return dispatch(arguments)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
