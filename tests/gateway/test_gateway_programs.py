"""Programs of the gateway share the writer's lock with other commands, and keep nobody from ending."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmctl.errors import LmctlError
from lmctl.gateway.programs import SessionPrograms
from lmctl.mutex import exclusive


def test_a_gateway_that_ends_waits_for_no_apply_that_waits_for_it(tmp_path: Path) -> None:
    """A start had let go of the lock until its engine answers; apply has it now, and ends the gateway."""
    session: Any = SimpleNamespace(writer=tmp_path / "lock")
    programs = SessionPrograms(session)
    waiting, ends = threading.Event(), threading.Event()
    told: list[str] = []

    def start() -> None:
        try:
            with programs._writing(session) as unlocked, unlocked():
                waiting.set()
                ends.wait(60)
        except LmctlError as error:
            told.append(error.problems[0].code)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    assert waiting.wait(60)
    with exclusive(session.writer, "lmctl apply"):
        programs.close()
        ends.set()
        thread.join(10)
        assert not thread.is_alive()
    assert told == ["E-INTERRUPTED"]


def test_a_start_has_the_lock_again_once_its_engine_answers(tmp_path: Path) -> None:
    session: Any = SimpleNamespace(writer=tmp_path / "lock")
    programs = SessionPrograms(session)
    with programs._writing(session) as unlocked:
        with unlocked(), exclusive(session.writer, "lmctl apply"):
            pass
        try:
            with exclusive(session.writer, "lmctl apply"):
                raise AssertionError("two have the lock")
        except LmctlError as error:
            assert error.problems[0].code == "E-BUSY"
    programs.close()
