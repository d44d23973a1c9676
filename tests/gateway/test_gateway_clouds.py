"""Requests that leave the machine: named, as a fallback or by the router; what a cloud is told and may say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fakes.raw_engine import OK, Talk, engine, request
from fakes.slots import Unbounded
from test_gateway_app import CHAT, SSE, Client, answer, chunk

from lmctl.front import Cloud, Router
from lmctl.gateway.app import Gateway, Rules
from lmctl.gateway.clouds import target
from lmctl.gateway.refused import Refused
from lmctl.gateway.router import Table
from lmctl.gateway.routing import Routes, Target
from lmctl.gateway.slots import Slots
from lmctl.record import replace
from lmctl.usage.rows import Row

KEY = "sk-canary-0123456789"
ANSWER = json.dumps({"id": "x", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()
JSON_OK = answer("200 OK\r\ncontent-type: application/json", ANSWER)
BUSY = answer("503 Busy\r\ncontent-type: application/json", b'{"error":{"message":"later"}}')
HARD = {**CHAT, "model": "auto", "tools": [{"type": "function"}]}
TABLE = Table(Router(cloud="big"), "big", {"classification": "chat"}, {"chat": "chat"})


class World:
    """A gateway with the profile `chat`, and clouds that record what they are asked."""

    def __init__(self, app: Gateway, told: dict[str, list[bytes]], rows: list[Row]) -> None:
        self.app, self.told, self.rows = app, told, rows

    async def ask(self, body: Any = CHAT, *headers: tuple[bytes, bytes], path: str = "/v1/chat/completions") -> Client:
        client = Client(path, json.dumps(body).encode(), *headers)
        await self.app(client.scope, client.receive, client.send)
        return client


def heard(told: list[bytes], said: bytes | Talk) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await request(reader))
        if callable(said):
            await said(reader, writer)
        else:
            writer.write(said)
            await writer.drain()

    return talk


def within(
    do: Callable[[World], Awaitable[Any]],
    *,
    local: bytes | Talk | None = None,
    clouds: dict[str, bytes | Talk | None] | None = None,
    slots: Slots | None = None,
    environ: dict[str, str] | None = None,
    **routes: Any,
) -> Any:
    """Do it in a world: `local` is what the engine says, None: nothing listens; the same of each cloud."""

    async def main() -> Any:
        told: dict[str, list[bytes]] = {}
        rows: list[Row] = []
        async with contextlib.AsyncExitStack() as stack:
            ports = {}
            said = {"chat": local, **({"big": JSON_OK} if clouds is None else clouds)}
            for name, one in said.items():
                told[name] = []
                pool, _ = await stack.enter_async_context(engine(heard(told[name], one or b"")))
                ports[name] = pool.port if one is not None else 1
            chat = Target("chat", "127.0.0.1", ports["chat"], "served", True, "llama.cpp", "owner/name")
            known = {
                name: target(
                    Cloud(name, f"http://127.0.0.1:{ports[name]}/base/v1", f"{name}-model", key_env="CLOUD_KEY"),
                    {"CLOUD_KEY": KEY} if environ is None else environ,
                )
                for name in said
                if name != "chat"
            }
            fallback = routes.pop("fallback", {"chat": tuple(known)})
            table = Routes({"chat": chat}, {}, "chat", clouds=known, fallback=fallback, **routes)
            app = Gateway(Rules(quiet=0.01), table, slots or Unbounded(), rows.append)
            world = World(app, told, rows)
            try:
                return await do(world)
            finally:
                await app.close()

    return asyncio.run(main())


def asked(body: Any = CHAT, *headers: tuple[bytes, bytes], path: str = "/v1/chat/completions", **how: Any) -> Any:
    """Return what one client got, and the world that it asked."""

    async def do(world: World) -> tuple[Client, World]:
        return await world.ask(body, *headers, path=path), world

    return within(do, **how)


def where(client: Client) -> tuple[str, str]:
    headers = client.headers
    return headers.get(b"x-lmctl-target", b"").decode(), headers.get(b"x-lmctl-why", b"").decode()


def test_a_cloud_that_is_named_is_told_its_model_its_key_and_what_openai_knows():
    body = {**CHAT, "model": "cloud:big", "temperature": 0.5, "top_k": 4, "grammar": "x"}
    client, world = asked(body, (b"authorization", b"Bearer sk-of-the-client"), (b"cookie", b"a=b"))
    head, _, said = world.told["big"][0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /base/v1/chat/completions HTTP/1.1"
    assert json.loads(said) == {"model": "big-model", "messages": CHAT["messages"], "temperature": 0.5}
    assert {line.partition(b":")[0] for line in lines} == {
        *(b"host", b"content-type", b"content-length", b"accept-encoding", b"authorization")
    }
    assert f"authorization: Bearer {KEY}".encode() in lines
    assert (client.status, client.body, where(client)) == (200, ANSWER, ("cloud:big", ""))
    row = world.rows[0]
    assert (row.target, row.profile, row.model, row.backend) == ("cloud:big", None, "big-model", None)
    assert (row.tokens_in, row.tokens_out, row.status) == (7, 3, 200)
    assert world.told["chat"] == []


def test_what_a_profile_answers_says_so_and_no_cloud_hears_of_it():
    client, world = asked(local=OK)
    assert (client.status, where(client)) == (200, ("local:chat", ""))
    assert world.told["big"] == []
    assert (world.rows[0].target, world.rows[0].profile) == ("local", "chat")


async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE)
    await writer.drain()


FAILS: dict[str, tuple[bytes | Talk | None, str]] = {
    "down": (None, "model_not_running"),
    "broke": (b"HTTP/1.1 200", "upstream_error"),
    "broke-while-it-read-the-prompt": (dies, "upstream_error"),
    "no-json": (answer("200 OK\r\ncontent-type: text/html", b"<html>"), "upstream_error"),
    "busy": (BUSY, "upstream_error"),
    "out-of-memory": (answer("500 No\r\ncontent-type: application/json", b'{"error":"cuda"}'), "upstream_error"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("local", "code"), FAILS.values(), ids=FAILS)
def test_a_profile_that_cannot_answer_falls_back_and_says_so(local, code, stream):
    client, world = asked({**CHAT, "stream": stream}, local=local)
    assert (client.status, client.body, where(client)) == (200, ANSWER, ("cloud:big", f"fallback: {code}"))
    assert len(world.rows) == 1
    row = world.rows[0]
    assert (row.target, row.profile, row.model, row.status, row.partial) == (
        "cloud:big",
        "chat",
        "big-model",
        200,
        False,
    )
    assert world.app.tallies["chat"].running == world.app.tallies["cloud:big"].running == 0
    assert [len(tally.requests) for tally in world.app.tallies.values()] == [0, 1]


class Full(Unbounded):
    """No slot for anybody, after a while."""

    def __init__(self, refused: Refused, seconds: float = 0) -> None:
        self._refused, self._seconds = refused, seconds

    def enter(self, profile: str) -> bool:
        return False

    async def wait(self, profile: str) -> None:
        await asyncio.sleep(self._seconds)
        raise self._refused


@pytest.mark.parametrize(
    "refused",
    [
        Refused(429, "queue_full", "full"),
        Refused(503, "model_loading_timeout", "late"),
        Refused(503, "no_memory", "big"),
    ],
    ids=lambda refused: refused.code,
)
def test_a_profile_without_a_slot_falls_back(refused):
    client, world = asked(local=OK, slots=Full(refused))
    assert (client.status, where(client)) == (200, ("cloud:big", f"fallback: {refused.code}"))
    assert world.told["chat"] == []


def test_a_stream_that_has_waited_is_told_in_a_comment():
    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + chunk(b'data: {"a":1}\n\n') + chunk(b""))
        await writer.drain()

    late = Full(Refused(503, "model_loading_timeout", "late"), 0.1)
    client, _ = asked({**CHAT, "stream": True}, slots=late, clouds={"big": streams})
    assert client.status == 200 and b"x-lmctl-target" not in client.headers
    waited, _, said = client.body.partition(b": x-lmctl-target")
    assert set(waited.split(b"\n")) == {b": waiting for the model", b""}
    assert said == b': cloud:big\n: x-lmctl-why: fallback: model_loading_timeout\n\ndata: {"a":1}\n\n'


@pytest.mark.parametrize("status", [500, 429])
def test_where_the_cloud_has_an_error_of_its_own_the_first_reason_counts(status):
    said = answer(f"{status} No\r\ncontent-type: application/json", b'{"error":{"message":"cloud broke"}}')
    full = Refused(429, "queue_full", "64 requests wait", headers=(("Retry-After", "1"),))
    client, _ = asked(slots=Full(full), clouds={"big": said})
    assert (client.status, client.error["code"]) == (429, "queue_full")
    assert client.headers[b"retry-after"] == b"1"


def test_nobody_else_is_asked_once_something_was_answered():
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + chunk(b'data: {"a":1}\n\n'))
        await writer.drain()

    client, world = asked({**CHAT, "stream": True}, local=half)
    assert world.told["big"] == []
    assert where(client)[0] == "local:chat"
    assert json.loads(client.body.rpartition(b"data: ")[2])["error"]["code"] == "upstream_error"
    assert world.rows[0].partial


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_request_that_is_at_fault_is_sent_nowhere_else(status):
    said = answer(f"{status} No\r\ncontent-type: application/json", b'{"error":{"message":"too long"}}')
    client, world = asked(local=said)
    assert (client.status, world.told["big"]) == (status, [])


def test_clouds_are_asked_in_their_order_until_one_answers():
    said = {"one": None, "two": BUSY, "three": answer("401 No\r\ncontent-type: application/json"), "four": JSON_OK}
    client, world = asked(clouds=said)
    assert (client.status, where(client)) == (200, ("cloud:four", "fallback: cloud_refused"))
    assert [len(world.told[name]) for name in said] == [0, 1, 1, 1]


def test_where_nobody_can_answer_the_first_reason_counts():
    client, world = asked(clouds={"big": None})
    assert (client.status, client.error["code"]) == (503, "model_not_running")
    message = client.error["message"]
    assert message.startswith("chat does not run: start it with `lmctl start chat`; cloud:big could not answer either")
    assert (len(world.rows), world.rows[0].status, world.rows[0].target) == (1, 503, "cloud:big")


def test_a_cloud_that_is_busy_is_told_beside_the_first_reason():
    client, _ = asked(clouds={"big": BUSY})
    assert (client.status, client.error["code"]) == (503, "model_not_running")
    assert client.error["message"].endswith("cloud:big failed: it answered 503")


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_cloud_says_of_its_key_is_not_passed_on(status):
    said = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    client, _ = asked(
        {**CHAT, "model": "cloud:big"},
        clouds={"big": answer(f"{status} No\r\ncontent-type: application/json", said)},
    )
    assert (client.status, client.error["code"]) == (502, "cloud_refused")
    assert b"canary" not in client.body


def test_a_redirect_is_not_followed_and_the_key_stays_where_it_belongs():
    async def do(world: World) -> Client:
        return await world.ask({**CHAT, "model": "cloud:big"})

    elsewhere = answer("307 Go\r\ncontent-type: application/json\r\nlocation: http://127.0.0.1:9/v1/chat/completions")
    client = within(do, clouds={"big": elsewhere})
    assert (client.status, client.error["message"]) == (502, "cloud:big failed: it answered 307")


def test_a_key_goes_to_its_own_cloud_alone():
    _, world = asked(local=BUSY)
    assert f"Bearer {KEY}".encode() in world.told["big"][0]
    assert b"Bearer" not in world.told["chat"][0]


def test_without_its_key_a_cloud_is_asked_nothing():
    client, world = asked({**CHAT, "model": "cloud:big"}, environ={})
    assert (client.status, client.error["code"]) == (503, "cloud_key_missing")
    assert "CLOUD_KEY is not set" in client.error["message"] and "key_file" in client.error["message"]
    assert world.told["big"] == []


def test_a_cloud_that_nobody_trusts_is_asked_nothing_in_any_way():
    untrusted = {"clouds": {}, "untrusted": ("big",), "fallback": {"chat": ("big",)}}
    named, _ = asked({**CHAT, "model": "cloud:big"}, **untrusted)
    assert (named.status, named.error["code"]) == (403, "cloud_not_trusted")
    down, _ = asked(**untrusted)
    assert (down.status, down.error["code"]) == (503, "model_not_running")
    auto, _ = asked(HARD, (b"x-lmctl-complexity", b"1"), local=OK, router=replace(TABLE, cloud=None), **untrusted)
    assert (auto.status, where(auto)) == (200, ("local:chat", "auto: no cloud to ask"))


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ([], {**CHAT, "model": "auto"}, ("local:chat", "auto: score 0.00")),
        ([], HARD, ("local:chat", "auto: score 0.15")),
        ([(b"x-lmctl-complexity", b"0.7")], {**CHAT, "model": "auto"}, ("cloud:big", "auto: score 0.70")),
        (
            [(b"x-lmctl-task", b"classification")],
            {**CHAT, "model": "auto"},
            ("local:chat", "auto: task classification, score 0.00"),
        ),
        ([(b"x-lmctl-complexity", b"1")], CHAT, ("local:chat", "")),
    ],
)
def test_auto_goes_where_the_router_says(headers, body, expected):
    client, _ = asked(body, *headers, local=OK, router=TABLE)
    assert (client.status, where(client)) == (200, expected)


def test_auto_comes_back_where_the_cloud_of_a_hard_request_is_out_of_reach():
    client, _ = asked(
        {**CHAT, "model": "auto"}, (b"x-lmctl-complexity", b"1"), local=OK, router=TABLE, clouds={"big": None}
    )
    assert (client.status, where(client)) == (200, ("local:chat", "fallback: cloud_unreachable"))


@pytest.mark.parametrize(
    ("header", "code"),
    [((b"x-lmctl-task", b"poems"), "unknown_task"), ((b"x-lmctl-complexity", b"2"), "invalid_headers")],
)
def test_a_header_that_says_nothing_is_refused(header, code):
    client, world = asked({**CHAT, "model": "auto"}, header, local=OK, router=TABLE)
    assert (client.status, client.error["code"]) == (400, code)
    assert world.told == {"chat": [], "big": []}


def test_auto_without_a_router_says_what_to_declare():
    client, _ = asked({**CHAT, "model": "auto"}, local=OK)
    assert (client.status, client.error["code"]) == (400, "no_router")
    assert "[router]" in client.error["message"]


@pytest.mark.parametrize(("name", "hint"), [("cloud:bik", "did you mean cloud:big?"), ("cloud:", "no cloud is called")])
def test_a_cloud_that_nobody_declares_is_404(name, hint):
    client, _ = asked({**CHAT, "model": name})
    assert client.status == 404 and hint in client.error["message"]


def test_other_apis_stay_on_this_machine():
    body = {**CHAT, "max_tokens": 5}
    client, world = asked(body, path="/v1/messages")
    assert (client.status, world.told["big"]) == (503, [])
    client, world = asked({**body, "model": "cloud:big"}, path="/v1/messages")
    assert (client.status, world.told["big"]) == (404, [])
    client, world = asked({"model": "cloud:big", "query": "x", "documents": []}, path="/v1/rerank")
    assert (client.status, world.told["big"]) == (404, [])


def test_a_stream_of_a_cloud_is_counted_and_shows_only_what_was_asked_for():
    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
        writer.write(
            SSE + chunk(b'data: {"choices":[{}]}\n\n') + chunk(usage) + chunk(b"data: [DONE]\n\n") + chunk(b"")
        )
        await writer.drain()

    client, world = asked({**CHAT, "model": "cloud:big", "stream": True}, clouds={"big": streams})
    said = json.loads(world.told["big"][0].partition(b"\r\n\r\n")[2])
    assert said["stream_options"] == {"include_usage": True}
    assert client.body == b'data: {"choices":[{}]}\n\ndata: [DONE]\n\n'
    assert (world.rows[0].tokens_in, world.rows[0].tokens_out) == (7, 3)


def test_the_models_name_the_router_and_the_clouds():
    async def do(world: World) -> tuple[Client, Client]:
        listing, one = Client("/v1/models", None), Client("/v1/models/cloud:big", None)
        for client in (listing, one):
            await world.app(client.scope, client.receive, client.send)
        return listing, one

    listing, one = within(do, router=TABLE)
    owners = {model["id"]: model["owned_by"] for model in json.loads(listing.body)["data"]}
    assert owners == {"chat": "lmctl", "auto": "lmctl", "cloud:big": "cloud:big"}
    assert json.loads(one.body)["owned_by"] == "cloud:big"


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://api.example", "api.example", 443, ""),
        ("https://api.example:8443/v1/", "api.example", 8443, "/v1"),
        ("http://[::1]:9/a/v1", "::1", 9, "/a/v1"),
    ],
)
def test_an_address_is_taken_apart_once(url, host, port, path):
    found = target(Cloud("big", url, "m"), {})
    assert (found.host, found.port, found.cloud and found.cloud.base) == (host, port, path)


def test_offline_only_this_machine_is_asked():
    far, near = Cloud("far", "https://api.example/v1", "m"), Cloud("near", "http://127.0.0.1:9/v1", "m")
    found = [target(one, {}, offline=True).cloud for one in (far, near)]
    assert [one.problem != "" for one in found if one] == [True, False]


def test_no_record_that_is_printed_shows_a_key():
    found = target(Cloud("big", "https://api.example/v1", "m", key_env="K"), {"K": KEY})
    assert found.key == KEY.encode()
    assert "canary" not in repr(found) and "canary" not in repr(Routes(clouds={"big": found}))
