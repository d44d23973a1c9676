"""Small questions that end-to-end tests ask of a running server."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(port: int, prompt: str) -> str:
    """Return what the model on `port` answers to one chat message."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": 32}).encode()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with _OPENER.open(request, timeout=30) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def listening(port: int) -> str | None:
    """Return the address on which somebody listens at `port`, None when nobody does."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return str(connection.laddr.ip)
    return None


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def profile(name: str, **keys: Any) -> str:
    """Return the TOML of a profile; its keys' values are those of JSON."""
    return "\n".join([f"[profiles.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def outcomes(data: dict[str, Any]) -> dict[str, str]:
    """Return by address how each change of an `apply --json` ended."""
    addresses = {change["id"]: change["address"] for change in data["changes"]}
    return {addresses.get(each["id"], each["id"]): each["state"] for each in data["outcomes"]}
