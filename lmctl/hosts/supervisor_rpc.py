"""supervisord's XML-RPC over its unix socket, with a deadline and one retry."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from lmctl.errors import LmctlError, Problem, escape
from lmctl.hosts import xmlrpc
from lmctl.hosts.xmlrpc import Fault
from lmctl.record import replace
from lmctl.trace import asking

_ANSWER_LIMIT: Final = 64 << 20  # bytes; 1,000 programs take about 1 MB
_AT_ONCE: Final = 8  # programs of one order: a daemon that starts programs answers nobody meanwhile

SHUTDOWN_STATE: Final = 6
BAD_NAME: Final = 10
ALREADY_STARTED: Final = 60
NOT_RUNNING: Final = 70
ALREADY_ADDED: Final = 90
STILL_RUNNING: Final = 91

Info = dict[str, Any]  # supervisor's process info: name, statename, pid, start, exitstatus, spawnerr


class NotThere(Exception):
    """Nobody listens on the socket, or there is none."""


def _exchange(path: Path, body: bytes, timeout: float) -> tuple[int, bytes]:
    """POST `body`; return status and body of the answer. `timeout` is for the whole exchange, in seconds.

    HTTP by hand, because http.client brings TLS and mail headers along, at a third of what a plan may cost.
    Raises NotThere, OSError, and ValueError for an answer that is no HTTP.
    """
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(timeout)
        try:
            line.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotThere(str(path)) from error
        head = f"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        line.sendall(head.encode() + body)
        answer = bytearray()
        while not _whole(answer):
            line.settimeout(max(0.001, end - time.monotonic()))
            piece = line.recv(1 << 20)
            if not piece or len(answer) > _ANSWER_LIMIT:
                break
            answer += piece
    head_bytes, _, content = bytes(answer).partition(b"\r\n\r\n")
    return int(head_bytes.split(None, 2)[1]), content


def _whole(answer: bytearray) -> bool:
    """Whether all the bytes that the answer's head announces are there; without a length its end is the line's."""
    head, blank, content = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]{1,12})", head) if blank else None
    return length is not None and len(content) >= int(length[1])


class Rpc:
    """Calls one daemon. Every call that lmctl makes may be made twice, so each is retried once."""

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self._path = path
        self._timeout = timeout

    def call(self, method: str, *params: Any) -> Any:
        """Return the answer of `supervisor.<method>`. Raises Fault, NotThere, or E-SUPERVISOR for anything else."""
        return self._ask(f"supervisor.{method}", params)

    def many(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Return the answers of several (method, *params) in one round trip; a call that failed gives its Fault."""
        struct = [{"methodName": f"supervisor.{method}", "params": list(params)} for method, *params in calls]
        answers = self._ask("system.multicall", (struct,))
        if not isinstance(answers, list) or len(answers) != len(calls):
            raise self._unusable("it left questions unanswered")
        return [_fault(answer) if _is_fault(answer) else answer for answer in answers]

    def _ask(self, method: str, params: tuple[Any, ...]) -> Any:
        try:
            return self._once(method, params)
        except LmctlError:
            return self._once(method, params)

    def _once(self, method: str, params: tuple[Any, ...]) -> Any:
        try:
            with asking(f"supervisord {_shown(method, params)}") as ended:
                status, body = _exchange(self._path, xmlrpc.request(method, params), self._timeout)
                ended(status)
        except (OSError, ValueError, IndexError) as error:
            raise self._unusable(f"no answer ({escape(str(error) or type(error).__name__)})") from error
        if status != 200:
            raise self._unusable(f"HTTP status {status}")
        try:
            return xmlrpc.answer(body)
        except ValueError as error:
            raise self._unusable("its answer is not XML-RPC") from error

    def _unusable(self, why: str) -> LmctlError:
        return failure(f"supervisord cannot be asked: {why}")


class Client:
    """What lmctl asks a daemon, in its own terms."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    def everything(self) -> tuple[int, list[Info]]:
        """Return the daemon's pid and each of its programs. Raises NotThere, Fault or E-SUPERVISOR."""
        number, infos = self._rpc.many(("getPID",), ("getAllProcessInfo",))
        for answer in (number, infos):
            if isinstance(answer, Fault):
                raise answer
        if not isinstance(number, int) or not isinstance(infos, list) or not all(map(_is_info, infos)):
            raise failure("supervisord's answer makes no sense")
        return number, infos

    def programs(self, names: Sequence[str]) -> list[Info | None]:
        """Return what the daemon tells of programs, None for one that it does not know. Raises E-SUPERVISOR."""
        try:
            answers = self._rpc.many(*(("getProcessInfo", name) for name in names))
        except NotThere:
            return [None for _ in names]
        for answer in answers:
            if isinstance(answer, Fault) and answer.faultCode != BAD_NAME:
                raise failure(why(answer))
            if not isinstance(answer, Fault) and not _is_info(answer):
                raise failure("supervisord's answer makes no sense")
        return [None if isinstance(answer, Fault) else answer for answer in answers]

    def reread(self) -> tuple[frozenset[str], frozenset[str]]:
        """Let the daemon read its file; return the programs that it does not have yet, and those that are gone."""
        answer = self.tell("reloadConfig")
        match answer:
            case [[list(added), list(_), list(removed)]] if all(isinstance(name, str) for name in (*added, *removed)):
                return frozenset(added), frozenset(removed)
        raise failure("supervisord's answer makes no sense")

    def tell(self, method: str, *params: object, fine: Collection[int] = ()) -> Any:
        """Give an order; a fault in `fine` means that it is already so. Raises E-SUPERVISOR for every other."""
        try:
            return self._rpc.call(method, *params)
        except Fault as fault:
            if fault.faultCode in fine:
                return None
            raise failure(why(fault)) from fault
        except NotThere:
            raise _gone() from None

    def tell_each(
        self, method: str, names: Iterable[str], *params: object, fine: Collection[int] = ()
    ) -> list[Problem]:
        """Give an order about each of several programs; return what the daemon refused, by program. Raises as `tell`.

        A few go together, because each question costs the daemon a look at all of its programs.
        """
        problems: list[Problem] = []
        pending = sorted(names)
        for some in (pending[at : at + _AT_ONCE] for at in range(0, len(pending), _AT_ONCE)):
            try:
                answers = self._rpc.many(*((method, name, *params) for name in some))
            except NotThere:
                raise _gone() from None
            faults = ((name, answer) for name, answer in zip(some, answers, strict=True) if isinstance(answer, Fault))
            refused = ((name, failure(why(fault))) for name, fault in faults if fault.faultCode not in fine)
            problems += [replace(problem, change=name) for name, error in refused for problem in error.problems]
        return problems


def _gone() -> LmctlError:
    return failure("supervisord does not run", fix="run `lmctl apply`")


def _shown(method: str, params: tuple[Any, ...]) -> str:
    """Return a call in a few words: what is called inside another call, and with which program."""
    if method == "system.multicall":
        return " ".join(dict.fromkeys(str(call["methodName"]).removeprefix("supervisor.") for call in params[0]))
    return " ".join([method.removeprefix("supervisor."), *(word for word in params[:1] if isinstance(word, str))])


def why(fault: Fault) -> str:
    """Return a fault in words."""
    texts = {
        SHUTDOWN_STATE: "supervisord is shutting down",
        BAD_NAME: "supervisord does not know the program",
    }
    return texts.get(fault.faultCode, f"supervisord refuses: {escape(fault.faultString)}")


def failure(what: str, fix: str = "run `lmctl down`, then apply") -> LmctlError:
    """Return the error that everything around the daemon is reported as."""
    return LmctlError("E-SUPERVISOR", what, fix=fix)


def _is_info(info: object) -> bool:
    kinds = {"name": str, "statename": str, "pid": int, "start": int, "exitstatus": int, "spawnerr": str}
    typed = isinstance(info, dict) and all(isinstance(info.get(key), kind) for key, kind in kinds.items())
    return typed and all(0 <= info[key] < 1 << 62 for key in ("pid", "start"))  # type: ignore[index]


def _is_fault(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("faultCode"), int)


def _fault(answer: Any) -> Fault:
    return Fault(answer["faultCode"], str(answer.get("faultString", "")))
