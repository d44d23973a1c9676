"""A moment as people type it: a date, `today`, `yesterday`, or a time ago such as 7d."""

from __future__ import annotations

import re
import time
from datetime import date

from lmctl.config.values import duration
from lmctl.errors import LmctlError, escape
from lmctl.usage.database import day_begins

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def moment(text: str, now: float) -> float:
    """Return the moment that `text` names, in seconds since the epoch; dates begin at midnight here.

    Raises E-USAGE.
    """
    today = day_begins(now)
    if text == "today":
        return today
    if text == "yesterday":
        return day_begins(today - 1)
    try:
        if _DATE.fullmatch(text):
            return time.mktime(date.fromisoformat(text).timetuple())
        return now - duration(text)
    except (ValueError, OverflowError, LmctlError):
        what = f"'{escape(text, 40)}' is no date"
        fix = "write a date such as 2026-01-31, today, yesterday, or a time ago such as 7d or 12h"
        raise LmctlError("E-USAGE", what, fix=fix) from None
