"""The gateway between a client of Ollama's API and an engine that does not speak it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from fakes.raw_engine import answering, engine, request
from fakes.slots import Unbounded
from test_gateway_app import CHAT, RULES, SSE, Client, asked, chunk, gateway, refused

from lmctl.gateway.app import Rules
from lmctl.gateway.demand import Standing
from lmctl.gateway.ollama_models import Known
from lmctl.gateway.refused import Refused
from lmctl.record import replace

USAGE = {"prompt_tokens": 2, "completion_tokens": 1}
SAID = {"choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}], "usage": USAGE}
WHOLE = {**CHAT, "model": "chat:latest", "stream": False}
NDJSON = b"application/x-ndjson"


def answer(body: object, status: str = "200 OK") -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def event(**body: object) -> bytes:
    return chunk(b"data: " + json.dumps(body).encode() + b"\n\n")


def piece(text: str | None = None, finish: str | None = None) -> bytes:
    return event(choices=[{"delta": {"content": text}, "finish_reason": finish}])


STREAM = SSE + piece() + piece("Hel") + piece("lo.") + piece(finish="stop") + event(choices=[], usage=USAGE)
STREAM += chunk(b"data: [DONE]\n\n") + chunk(b"")


def lines(client: Client) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.body.splitlines()]


@pytest.mark.parametrize(
    ("path", "body", "upstream"),
    [
        ("/api/chat", WHOLE, "/v1/chat/completions"),
        ("/api/generate", {"model": "gpt:latest", "prompt": "Hello", "stream": False}, "/v1/chat/completions"),
        ("/api/generate", {"prompt": "Hello", "raw": True, "stream": False}, "/v1/completions"),
        ("/api/embed", {"model": "chat", "input": "Hello"}, "/v1/embeddings"),
        ("/api/embeddings", {"model": "chat", "prompt": "Hello"}, "/v1/embeddings"),
    ],
)
def test_an_engine_is_asked_in_its_own_words(path, body, upstream):
    told: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await request(reader))
        writer.write(answer({**SAID, "data": [{"embedding": [0.5]}]}))

    client = asked(talk, body, path)
    head, _, said = told[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {upstream} HTTP/1.1\r\n".encode())
    assert json.loads(said)["model"] == "served"
    assert (client.status, client.headers[b"content-type"]) == (200, b"application/json")
    assert not {"choices", "data"} & json.loads(client.body).keys()


def test_a_client_is_answered_by_the_name_that_it_gave():
    rows: list[Any] = []
    told = json.loads(asked(answering(answer(SAID)), WHOLE, "/api/chat", rows=rows).body)
    assert (told["model"], told["message"]["content"]) == ("chat:latest", "Hello.")
    row = rows[0]
    assert (row.endpoint, row.profile, row.tokens_in, row.tokens_out) == ("/api/chat", "chat", 2, 1)


def test_a_stream_becomes_lines_with_the_counts_in_the_last():
    rows: list[Any] = []
    client = asked(answering(STREAM), CHAT, "/api/chat", rows=rows)
    assert (client.status, client.headers[b"content-type"]) == (200, NDJSON)
    assert [one["message"]["content"] for one in lines(client)] == ["Hel", "lo.", ""]
    assert lines(client)[-1]["eval_count"] == 1
    assert client.seen[-1].get("more_body", False) is False
    assert (rows[0].tokens_out, rows[0].partial) == (1, False)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (SSE + piece("Hel"), "the engine of chat failed: it ended the connection"),
        (SSE + piece("Hel") + event(error={"message": "out of memory"}) + chunk(b""), "out of memory"),
        (SSE + piece("Hel") + chunk(b""), "the engine's answer cannot be used: it ends in the middle"),
        (SSE + piece("Hel") + chunk(b"data: {\n\n") + piece("x") + chunk(b""), "no JSON object"),
    ],
    ids=["cut", "error", "end", "no json"],
)
def test_F83_a_stream_that_breaks_off_ends_with_an_error_line(said, why):
    rows: list[Any] = []
    client = asked(answering(said), CHAT, "/api/chat", rows=rows)
    assert [*lines(client)[-1]] == ["error"] and why in lines(client)[-1]["error"]
    assert [one["message"]["content"] for one in lines(client)[:-1]] == ["Hel"]
    assert [message.get("more_body", False) for message in client.seen[1:]].count(False) == 1
    assert rows[0].partial


@pytest.mark.parametrize("status", [400, 500])
def test_an_engines_own_error_is_told_in_the_clients_words(status):
    said = answer({"error": {"message": "the prompt is too long", "code": status}}, f"{status} No")
    client = asked(answering(said), WHOLE, "/api/chat")
    assert (client.status, json.loads(client.body)) == (status, {"error": "the prompt is too long"})


def test_I128_an_answer_that_is_none_is_502_in_the_clients_words():
    client = asked(answering(answer({"choices": []})), WHOLE, "/api/chat")
    assert (client.status, [*json.loads(client.body)]) == (502, ["error"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {**WHOLE, "model": "other"}, 404),
        ("/api/chat", {**WHOLE, "options": {"num_gpu": 1}}, 400),
        ("/api/generate", {"model": "chat", "prompt": "a", "suffix": "b"}, 400),
        ("/api/show", {"model": "other"}, 404),
        ("/api/pull", {"model": "llama3"}, 404),
        ("/api/chat", WHOLE, 503),
    ],
    ids=["name", "option", "suffix", "show", "pull", "stopped"],
)
def test_a_refusal_is_one_that_the_client_reads(path, body, status):
    client = refused(path, json.dumps(body).encode())
    assert client.status == status
    assert isinstance(json.loads(client.body)["error"], str)


def test_F85_a_foreign_host_is_refused_in_the_clients_words():
    client = refused("/api/tags", None, (b"origin", b"https://evil.example"))
    assert (client.status, type(json.loads(client.body)["error"])) == (403, str)


class Asleep(Unbounded):
    """Slots of a model that has to be started."""

    def __init__(self, *, starts: bool = True) -> None:
        super().__init__()
        self.entered, self.left, self._starts = 0, 0, starts

    def states(self) -> Mapping[str, Standing]:
        soon = time.monotonic() + 60
        return {"chat": Standing("ready", 0, 0, sleeps=soon), "gone": Standing("ready", 0, 0)}

    def enter(self, name: str) -> bool:
        return False

    async def wait(self, name: str) -> None:
        self.entered += 1
        await asyncio.sleep(0.05)
        if not self._starts:
            raise Refused(503, "start_failed", "it does not start")

    def leave(self, name: str) -> None:
        self.left += 1


EMPTY = [("/api/chat", {"messages": []}), ("/api/generate", {})]


@pytest.mark.parametrize(("path", "body"), EMPTY)
def test_a_request_for_the_model_alone_wakes_it_and_asks_nothing(path, body):
    slots, rows = Asleep(), []
    client = refused(path, json.dumps({"model": "chat", **body}).encode(), slots=slots, rows=rows)
    assert (client.status, json.loads(client.body)["done_reason"]) == (200, "load")
    assert (slots.entered, slots.left) == (1, 1)
    assert (rows[0].status, rows[0].tokens_out) == (200, None)


@pytest.mark.parametrize(("path", "body"), EMPTY)
def test_a_farewell_wakes_nothing_and_stops_nothing(path, body):
    slots = Asleep()
    client = refused(path, json.dumps({"model": "chat", "keep_alive": 0, **body}).encode(), slots=slots)
    assert (client.status, json.loads(client.body)["done_reason"]) == (200, "unload")
    assert slots.entered == slots.left == 0


def test_a_client_that_waits_for_a_model_gets_lines_without_words():
    async def main() -> Client:
        async with engine(answering(STREAM)) as (pool, _):
            app = gateway(pool, rules=Rules(quiet=0.01), slots=Asleep())
            client = Client("/api/chat", json.dumps(CHAT).encode())
            await app(client.scope, client.receive, client.send)
            await app.close()
            return client

    client = asyncio.run(main())
    words = [one["message"]["content"] for one in lines(client)]
    assert words[0] == "" and words[-3:] == ["Hel", "lo.", ""]
    assert [one["done"] for one in lines(client)] == [*(False for _ in words[1:]), True]


def test_a_model_that_does_not_start_ends_the_lines_of_a_client_that_waited():
    client = refused("/api/chat", json.dumps(CHAT).encode(), rules=Rules(quiet=0.01), slots=Asleep(starts=False))
    assert lines(client)[-1] == {"error": "it does not start"}
    assert client.headers[b"content-type"] == NDJSON


def got(path: str, body: object = None, **known: Any) -> Any:
    """Return what a client of the gateway reads that knows this of the model of `chat`."""
    client = Client(path, None if body is None else json.dumps(body).encode())
    app = gateway(slots=Asleep())
    app.follow(RULES, replace(app.routes, models={"chat": Known("chat", **known)} if known else {}))
    asyncio.run(app(client.scope, client.receive, client.send))
    assert client.status == 200
    return json.loads(client.body)


def test_models_are_listed_and_shown():
    assert got("/api/tags")["models"][0]["name"] == "chat"
    assert got("/api/tags", size=5)["models"][0]["size"] == 5
    assert got("/api/show", {"model": "gpt:latest"}, family="llama")["model_info"] == {"general.architecture": "llama"}
    assert got("/api/show", {"name": "chat"}, ctx=5)["parameters"].split() == ["num_ctx", "5"]
    assert "." in got("/api/version")["version"]


def test_what_runs_is_told_with_the_time_when_it_idled_enough():
    told = got("/api/ps", ttl=900.0)["models"]
    assert [one["name"] for one in told] == ["chat"]
    soon = time.time() + 60
    assert time.strftime("%Y-%m-%dT%H", time.gmtime(soon)) in told[0]["expires_at"]
    assert got("/api/ps", size=1)["models"][0]["expires_at"].startswith("2300")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_somebody_is_there(method):
    client = refused("/", None, method=method)
    assert (client.status, client.headers[b"content-type"], client.body) == (
        200,
        b"text/plain",
        b"lmctl answers here\n",
    )
