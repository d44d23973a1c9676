"""Why the gateway refuses a request, and the answer in the words of the API that the client speaks."""

from __future__ import annotations

import json
from typing import Literal

from lmctl.errors import escape
from lmctl.secret import hidden

Dialect = Literal["openai", "anthropic", "ollama"]

_LONGEST = 500  # characters of a message
# The types that the clients of both APIs turn into exceptions, by status; what is missing is the client's own error
# below 500, the server's from there.
_OPENAI = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Refused(Exception):
    """A request that is answered with an HTTP error instead of being passed on.

    `code` is a word for programs, `message` a sentence for people, `param` the field of the body at fault (a path with
    dots where it is nested), `headers` what the answer carries besides its own.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers


def answer(refused: Refused, dialect: Dialect) -> bytes:
    """Return the JSON body of the answer, on one line, without secrets and unprintable characters."""
    message, status = _shown(refused.message, _LONGEST), refused.status
    if dialect == "ollama":
        return json.dumps({"error": message}).encode()
    if dialect == "anthropic":
        kind = _ANTHROPIC.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    kind = _OPENAI.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = None if refused.param is None else _shown(refused.param, 128)
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": refused.code}}).encode()


def _shown(text: str, limit: int) -> str:
    return escape(hidden(text), limit)
