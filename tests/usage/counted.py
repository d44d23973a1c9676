"""Rows of requests as the tests need them, and what a file of them holds."""

from __future__ import annotations

import calendar
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from lmctl.usage.rows import Row

NOON = float(calendar.timegm((2026, 5, 4, 12, 0, 0)))  # the tests live in UTC


def row(number: int, **changes: Any) -> Row:
    told: dict[str, Any] = {
        "id": f"r{number}",
        "at": NOON + number,
        "profile": "chat",
        "model": "o/m:Q4",
        "backend": "llama.cpp",
        "endpoint": "/v1/chat/completions",
        "status": 200,
        "tokens_in": 10,
        "tokens_cached": 2,
        "tokens_out": 5,
        "ttft_ms": 12.5,
        "duration_ms": 100.0,
        "tokens_per_s": 50.0,
        "client": "curl/8.5.0",
    }
    return Row(**{**told, **changes})


def asked(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def ids(path: Path) -> list[str]:
    return [one for (one,) in asked(path, "SELECT id FROM request ORDER BY rowid")]


def written(path: Path) -> list[str]:
    """The same of a file that may only just be made, or not yet."""
    try:
        return ids(path) if path.exists() and path.stat().st_size else []
    except sqlite3.OperationalError:
        return []


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
