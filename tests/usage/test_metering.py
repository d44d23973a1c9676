"""What engines counted by themselves adds up, whatever restarts in between, and is never counted beside the gateway."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmctl.backend import Counters
from lmctl.backends import llama_cpp
from lmctl.front import Front
from lmctl.spec import Declaration, Profile, ProgramSpec, Settings
from lmctl.usage.metering import Look, Meter, direct, older, since

CODE = Profile("code", "llama.cpp", None, Settings(), port=8081)
# as the engine prints them
METRICS = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 41
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 39
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 8
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total 1.07631
# TYPE llamacpp:prompt_tokens_seconds gauge
llamacpp:prompt_tokens_seconds 56.5634
"""


def look(count: int, pid: int = 7, at: float = 1000.0, started: float = 500.0) -> Look:
    return Look(CODE, pid, started, at, Counters(count, 0, count, count * 1000))


def meter(count: int, pid: int = 7, at: float = 900.0) -> Meter:
    return Meter(pid, at, Counters(count, 0, count, count * 1000))


def test_an_answer_of_the_engine_is_read_cached_tokens_being_part_of_the_prompt():
    assert llama_cpp.counters(METRICS) == Counters(80, 39, 8, 1_076_310)
    assert llama_cpp.counters("llamacpp:prompt_tokens_total 3\n") is None
    assert llama_cpp.counters("<html>llamacpp:prompt_tokens_total nan</html>") is None


def test_what_is_new_is_the_difference_and_all_of_a_process_that_is_new():
    assert since(None, look(5), None) == Counters(5, 0, 5, 5000)
    assert since(meter(3), look(5), None) == Counters(2, 0, 2, 2000)
    assert since(meter(3, pid=6), look(5), None) == Counters(5, 0, 5, 5000)  # another process
    assert since(meter(9), look(5), None) == Counters(5, 0, 5, 5000)  # a counter that fell


def test_an_answer_that_is_older_than_the_last_one_is_no_new_beginning():
    assert older(meter(9, at=999.0), look(5, at=1000.0))
    assert older(meter(9, at=1000.5), look(5, at=1000.0))
    assert not older(meter(9, at=100.0), look(5, at=1000.0))
    assert not older(meter(9, pid=6, at=999.0), look(5))


def test_what_the_gateway_counted_is_not_counted_again():
    assert since(meter(3), look(5), 950.0) is None
    assert since(None, look(5), 600.0) is None
    assert since(meter(3), look(5), 800.0) == Counters(2, 0, 2, 2000)
    assert since(None, look(5), 400.0) == Counters(5, 0, 5, 5000)


def test_an_engine_is_asked_directly_without_a_gateway_and_where_it_has_the_port_of_the_profile():
    def asked(port: int, *, enabled: bool, profile: Profile = CODE) -> bool:
        spec = ProgramSpec("p", "code", (), {}, ".", "h", f"127.0.0.1:{port}")
        declaration = Declaration("team", None, None, (profile,), front=Front(enabled=enabled))  # type: ignore[arg-type]
        return direct(profile, spec, declaration)

    assert asked(8081, enabled=False) and asked(28000, enabled=False)
    assert asked(8081, enabled=True)
    assert not asked(28000, enabled=True)
    assert not asked(28000, enabled=True, profile=Profile("code", "llama.cpp", None, Settings()))


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40))
def test_all_tokens_of_all_processes_are_counted_once(steps):
    """Each step writes some tokens, then perhaps the engine starts anew; everybody looks after each step."""
    before, total, written, count, pid, at = None, 0, 0, 0, 1, 0.0
    for tokens, restarts in steps:
        at += 60.0
        count, written = count + tokens, written + tokens
        now = look(count, pid, at, started=at - 1)
        assert before is None or not older(before, now)
        found = since(before, now, None)
        assert found is not None
        total += found.tokens_out
        before = Meter(pid, at, now.counters)
        if restarts:
            pid, count = pid + 1, 0
    assert total == written
