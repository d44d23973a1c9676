"""A program whose file is lost or damaged while it runs: no write about others ends it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from supervised import Supervised, until

from lmctl.hosts import pids, supervisor_conf
from lmctl.spec import program_id

SMALL = program_id("small")


def garbage(file: Path) -> None:
    file.write_text("garbage\n")


def removed(file: Path) -> None:
    file.unlink()


def all_removed(file: Path) -> None:
    shutil.rmtree(file.parent)


WAYS = [garbage, removed, all_removed]


@pytest.fixture
def spoiled(stack: Supervised) -> Callable[[Callable[[Path], None]], int]:
    """Start two programs, then lose the file of one; its pid."""

    def spoil(way: Callable[[Path], None]) -> int:
        stack.up(stack.spec("small", stop=7.0), stack.spec("two"))
        pid, _ = stack.pid("small"), stack.pid("two")  # a launcher reads the file that is about to go
        way(stack.folder / "programs" / f"{SMALL}.json")
        return pid

    return spoil


@pytest.mark.parametrize("way", WAYS)
def test_a_program_without_its_file_is_seen_and_outlives_a_reload_about_another(stack, spoiled, way) -> None:
    pid, conf = spoiled(way), stack.folder / "supervisord.conf"
    before, text = stack.pid("two"), conf.read_text()
    seen = stack.supervisor.observe()
    assert SMALL in seen.fileless and SMALL not in seen.specs
    assert "supervisord" not in seen.edited
    stack.up(stack.spec("two"), replace=("two",))
    assert (stack.process("small").pid, conf.read_text()) == (pid, text)
    assert stack.process("two").pid != before
    assert stack.supervisor.observe().fileless == {SMALL}
    assert stack.supervisor.write([stack.spec("two")]) is False


@pytest.mark.parametrize("way", WAYS)
def test_a_program_without_its_file_is_replaced_by_what_is_written_of_it(stack, spoiled, way) -> None:
    pid, other = spoiled(way), stack.pid("two")
    stack.up(stack.spec("small", version=2), stack.spec("two"), replace=("small",))
    assert (pids.stat(pid), stack.pid("two")) == (None, other)
    seen = stack.supervisor.observe()
    assert (seen.edited, seen.fileless, set(seen.specs)) == ((), frozenset(), {SMALL, program_id("two")})
    until(lambda: stack.process("small").hash == f"{stack.mark}2")


@pytest.mark.parametrize("way", WAYS)
def test_a_program_without_its_file_that_was_stopped_goes_with_the_next_write(stack, spoiled, way) -> None:
    pid = spoiled(way)
    stack.supervisor.stop(SMALL)
    assert pids.stat(pid) is None
    stack.up(stack.spec("two"))
    assert SMALL not in stack.supervisor.observe().processes
    assert SMALL not in (stack.folder / "supervisord.conf").read_text()


def test_a_program_without_its_file_ends_with_the_daemon_and_is_not_started_with_the_next(stack, spoiled) -> None:
    pid = spoiled(removed)
    stack.supervisor.shutdown()
    assert pids.stat(pid) is None
    stack.up(stack.spec("two"))
    assert list(stack.supervisor.observe().processes) == [program_id("two")]


def test_nothing_that_somebody_wrote_into_a_kept_section_is_kept(stack, spoiled) -> None:
    pid, conf = spoiled(removed), stack.folder / "supervisord.conf"
    text = conf.read_text()
    edited = text.replace(f"command=./launch {SMALL}\n", f"command=/bin/evil {SMALL}\n").replace("umask=077", "umask=0")
    conf.write_text(f"{edited}\n[program:p-000000000000]\ncommand=/bin/evil\n[program:mine]\ncommand=/bin/evil\n")
    stack.up(stack.spec("two"))
    assert (conf.read_text(), stack.process("small").pid) == (text, pid)


@pytest.mark.parametrize("digest", ['"x"\n[include]\nfiles=/etc/x', "a%(here)s", "", 'h",PATH="/evil'])
def test_a_hash_that_lmctl_does_not_form_gets_into_no_section(digest: str) -> None:
    block = f'[program:{SMALL}]\nautostart=true\nstopwaitsecs=7\nenvironment=LMCTL_HASH="{digest}"\n'
    spec = supervisor_conf.spec_of(SMALL, block)
    assert (spec.hash in {"unknown", "x"}, spec.autostart, spec.stop_timeout) == (True, True, 7.0)
    text = supervisor_conf.join(supervisor_conf.sections([spec], "s.sock", 1 << 20))
    supervisor_conf.check(text, [spec])
    assert "include" not in text and "evil" not in text
