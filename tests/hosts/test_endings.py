"""How a program's last run ended: supervisord's log tells the signal, the kernel's count tells of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmctl.hosts.endings import ending

ID, OTHER = "p-0123456789ab", "p-ba9876543210"
STARTS = [{"at": 1.0, "pid": 1, "hash": "h", "oom": 3}]
REFUSED = f"exited: {ID} (exit status 75; expected)"


@pytest.fixture
def told(tmp_path: Path):
    """Return the ending of a program whose daemon logged these lines."""

    def tell(*lines: str, starts=STARTS, kills: int | None = 3) -> str:
        log = tmp_path / "supervisord.log"
        log.write_text("".join(f"2026-01-01 00:00:00,000 WARN {line}\n" for line in lines))
        return ending(log, ID, starts, kills)

    return tell


def killed(program: str = ID) -> str:
    return f"exited: {program} (terminated by SIGKILL; not expected)"


def test_the_last_end_of_the_program_itself_counts(told):
    lines = (f"exited: {ID} (exit status 1; not expected)", killed(), killed(OTHER), REFUSED)
    assert told(*lines) == "terminated by SIGKILL"
    assert told(*lines, f"exited: {ID} (terminated by SIGSEGV (core dumped); not expected)", REFUSED) == (
        "terminated by SIGSEGV (core dumped)"
    )


def test_F75_memory_is_the_cause_where_the_kernel_counts_one_kill_more_than_at_the_start(told):
    assert told(killed(), REFUSED, kills=4) == "terminated by SIGKILL: memory ran out, and the kernel ended it"


@pytest.mark.parametrize(
    ("line", "starts", "kills"),
    [
        pytest.param(killed(), STARTS, 3, id="as-many-as-before"),
        pytest.param(killed(), STARTS, None, id="the-kernel-does-not-tell"),
        pytest.param(killed(), [{"at": 1.0, "pid": 1, "hash": "h"}], 4, id="not-counted-at-the-start"),
        pytest.param(killed(), [], 4, id="no-record-of-the-start"),
        pytest.param(f"exited: {ID} (exit status 137; not expected)", STARTS, 4, id="not-killed"),
    ],
)
def test_F75_without_proof_nothing_is_said_of_memory(told, line, starts, kills):
    assert "memory" not in told(line, starts=starts, kills=kills)


def test_nothing_is_said_where_nothing_is_known(told, tmp_path):
    assert told() == told(killed(OTHER)) == told(REFUSED) == ""
    assert ending(tmp_path / "none", ID, STARTS, 4) == ""


def test_only_the_end_of_a_large_log_is_read(told):
    assert told(killed(), *["INFO nothing of interest"] * 20_000) == ""
