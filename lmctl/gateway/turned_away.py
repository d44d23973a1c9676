"""What a client is told whose request finds no model, in words that say what to type. Pure."""

from __future__ import annotations

import math

from lmctl.gateway.demand import Why

_SOON, _LATER = 1.0, 30.0
HELD = "model_held"


def queue_full(name: str, queue: int) -> Why:
    message = f"{queue} requests wait for {name} already (`max_queue`)"
    return Why(429, "queue_full", message, _SOON)


def too_late(name: str, seconds: float) -> Why:
    message = f"{name} did not run within {seconds:.0f} s: see `lmctl status {name}`"
    return Why(503, "model_loading_timeout", message, 5.0)


def not_running(name: str) -> Why:
    return Why(503, "model_not_running", f"{name} does not run: start it with `lmctl start {name}`", 5.0)


def undeclared(name: str) -> Why:
    message = f"{name} is not declared any more: GET /v1/models lists the models"
    return Why(503, "model_not_running", message, _LATER)


def no_memory(name: str, beside: str) -> Why:
    """`beside`: what runs and is not stopped for a request, empty for nothing."""
    least = f" beside {beside}, which no request stops: `lmctl stop` one of them" if beside else ""
    message = f"{name} does not fit in memory{least}; `lmctl plan` shows what it needs"
    return Why(503, "no_memory", message, _LATER)


def rival_runs(name: str, rival: str) -> Why:
    message = f"{rival} runs in the place of {name}, and no request stops it: `lmctl start {name}` changes places"
    return Why(503, "rival_runs", message, _LATER)


def held(name: str) -> Why:
    message = f"{name} was stopped by a person: `lmctl start {name}` lets it run again"
    return Why(503, HELD, message, _LATER)


def start_failed(name: str, what: str) -> Why:
    return Why(503, "start_failed", f"{name} could not be started: {what}", _SOON)


def seconds(retry: float) -> str:
    """Return the value of Retry-After: whole seconds, at least one."""
    return str(max(1, math.ceil(retry)))
