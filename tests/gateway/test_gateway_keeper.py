"""Requests wait on the keeper, and programs start and stop as it says; here programs are tasks that take a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lmctl.errors import LmctlError
from lmctl.gateway.demand import Policy
from lmctl.gateway.keeper import Held, Keeper, Rivalled
from lmctl.gateway.refused import Refused

SOLO = Policy("on-demand", ttl=3600.0, slots=1, queue=8, load_timeout=60.0)


class Tasks:
    """Programs that start when `go` is set, or fail with `error`; what really runs is in `up`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None
        self.up: set[str] = set()
        self.calls: list[str] = []

    async def start(self, name: str) -> None:
        self.calls.append(f"start {name}")
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.up.add(name)

    async def stop(self, name: str) -> None:
        self.calls.append(f"stop {name}")
        self.up.discard(name)

    async def running(self, doubted=()):
        self.calls.append("look")
        return dict.fromkeys(self.up, "ready")


def kept(test: Callable[[Keeper, Tasks], Coroutine[Any, Any, None]], **policies: Policy) -> None:
    """Run `test` with a keeper of `policies`, `a` alone by default, within one event loop."""

    async def whole() -> None:
        programs = Tasks()
        keeper = Keeper(programs)
        keeper.follow(policies or {"a": SOLO}, lambda names: None)
        async with asyncio.timeout(60):
            await test(keeper, programs)
            await keeper.close()
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def refusal(waiting: Coroutine[Any, Any, None]) -> Refused:
    with pytest.raises(Refused) as caught:
        await waiting
    return caught.value


def test_requests_side_by_side_start_a_model_once_and_are_let_through_in_turn():
    async def test(keeper, programs):
        order = []

        async def request(number):
            if not keeper.enter("a"):
                await keeper.wait("a")
            order.append(number)
            await asyncio.sleep(0)
            keeper.leave("a")

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(request(number))
        assert order == [*range(8)]
        assert programs.calls.count("start a") == 1
        assert keeper.states()["a"].in_flight == 0
        assert keeper.counts["a"].starts == 1

    kept(test)


def test_a_client_that_leaves_waits_no_longer():
    async def test(keeper, programs):
        programs.go.clear()
        waiting = [asyncio.ensure_future(keeper.wait("a")) for _ in range(3)]
        await until(lambda: keeper.states()["a"].waiting == 3)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        assert keeper.states()["a"].waiting == 2
        programs.go.set()
        await waiting[1]
        keeper.leave("a")
        await waiting[2]

    kept(test)


@pytest.mark.parametrize("first", ["cancelled", "let through"])
def test_a_client_that_leaves_just_as_it_is_let_through_gives_its_slot_back(first):
    async def test(keeper, programs):
        await keeper.wait("a")
        waiting = asyncio.ensure_future(keeper.wait("a"))
        await until(lambda: keeper.states()["a"].waiting == 1)
        steps = [waiting.cancel, lambda: keeper.leave("a")]
        for step in steps if first == "cancelled" else steps[::-1]:
            step()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert (keeper.states()["a"].in_flight, keeper.states()["a"].waiting) == (0, 0)
        assert keeper.enter("a")

    kept(test)


FAILED = LmctlError("E-ENGINE", "a crashed again\n  | out of memory", fix="read `lmctl logs a`")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        pytest.param(FAILED, "start_failed", "a crashed again | out of memory — read `lmctl logs a`", id="engine"),
        pytest.param(Rivalled("a", "b"), "rival_runs", "b runs in the place of a", id="rival"),
    ],
)
def test_a_start_that_fails_is_told_to_everybody_who_waits(error, code, said):
    async def test(keeper, programs):
        programs.error = error
        told = await asyncio.gather(*(refusal(keeper.wait("a")) for _ in range(3)))
        assert [(one.status, one.code) for one in told] == [(503, code)] * 3
        assert all(said in one.message and dict(one.headers)["Retry-After"] == "1" for one in told)
        again = await refusal(keeper.wait("a"))
        assert (again.code, keeper.counts["a"].failures) == (code, 1), "and it is not tried again at once"

    kept(test)


def test_a_profile_that_a_person_stopped_is_no_failure_and_starts_as_soon_as_it_may():
    async def test(keeper, programs):
        programs.error = Held("E-UNHEALTHY", "held")
        told = await refusal(keeper.wait("a"))
        assert (told.status, told.code, keeper.counts["a"].failures) == (503, "model_held", 0)
        assert "`lmctl start a` lets it run again" in told.message
        programs.error = None
        await keeper.wait("a")
        keeper.leave("a")

    kept(test)


def test_a_bug_below_refuses_who_waits_and_is_reported():
    async def test(keeper, programs):
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        programs.error = ZeroDivisionError()
        assert (await refusal(keeper.wait("a"))).code == "start_failed"
        assert reported == [programs.error]

    kept(test)


def test_a_full_queue_is_429_with_retry_after():
    async def test(keeper, programs):
        programs.go.clear()
        waiting = [asyncio.ensure_future(keeper.wait("a")) for _ in range(9)]
        await until(lambda: keeper.states()["a"].waiting == 9)
        told = await refusal(keeper.wait("a"))
        assert (told.status, told.code, told.headers) == (429, "queue_full", (("Retry-After", "1"),))
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    kept(test)


def test_the_timer_refuses_who_waits_too_long():
    async def test(keeper, programs):
        programs.go.clear()
        assert (await refusal(keeper.wait("a"))).code == "model_loading_timeout"

    kept(test, a=Policy("on-demand", load_timeout=0.01))


def test_the_timer_stops_what_idles():
    async def test(keeper, programs):
        await keeper.wait("a")
        keeper.leave("a")
        await until(lambda: "stop a" in programs.calls)
        assert keeper.counts["a"].ttl_stops == 1

    kept(test, a=Policy("on-demand", ttl=0.01))


def test_one_makes_way_for_another_and_is_counted():
    async def test(keeper, programs):
        await keeper.wait("a")
        other = asyncio.ensure_future(keeper.wait("b"))
        await until(lambda: keeper.states()["a"].state == "draining")
        keeper.leave("a")
        await other
        assert programs.up == {"b"}
        assert (keeper.counts["a"].evictions, keeper.counts["b"].starts) == (1, 1)

    rival = Policy("on-demand", rivals=frozenset("a"))
    kept(test, a=Policy("on-demand", rivals=frozenset("b")), b=rival)


def test_a_model_that_is_lost_is_started_again():
    async def test(keeper, programs):
        await keeper.wait("a")
        programs.up.clear()
        keeper.lost("a")
        keeper.leave("a")
        await keeper.wait("a")
        assert programs.calls.count("start a") == 2

    kept(test)


def test_F30_a_drain_waits_for_what_is_in_flight_and_holds_back_what_comes():
    async def test(keeper, programs):
        await keeper.wait("a")
        drained = asyncio.ensure_future(keeper.drain("a", 60.0))
        await until(lambda: keeper.states()["a"].state == "draining")
        later = asyncio.ensure_future(keeper.wait("a"))
        await asyncio.sleep(0)
        assert not drained.done()
        keeper.leave("a")
        await drained
        assert not later.done()
        keeper.resume("a")
        await later

    kept(test)


def test_F30_a_drain_ends_in_time_even_with_requests_in_flight():
    async def test(keeper, programs):
        await keeper.wait("a")
        await keeper.drain("a", 0.01)
        assert keeper.states()["a"].in_flight == 1

    kept(test)


def test_who_waits_when_the_gateway_ends_is_told_so():
    async def test(keeper, programs):
        programs.go.clear()
        waiting = asyncio.ensure_future(refusal(keeper.wait("a")))
        await until(lambda: keeper.states()["a"].waiting == 1)
        await keeper.close()
        assert (await waiting).code == "ending"
        assert (await refusal(keeper.wait("a"))).code == "ending"

    kept(test)
