"""The gateway between a client and an engine: what is passed on, what is refused, and how each ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from fakes.raw_engine import OK, Talk, answering, engine, request
from fakes.slots import Unbounded

from lmctl.gateway.app import Gateway, Rules
from lmctl.gateway.demand import Standing as Stands
from lmctl.gateway.demand import State
from lmctl.gateway.recount import Kept
from lmctl.gateway.refused import Refused
from lmctl.gateway.routing import Elsewhere, Routes, Target
from lmctl.gateway.slots import Slots
from lmctl.gateway.upstream import Pool
from lmctl.gateway.visit import PRESENCE, Presence
from lmctl.usage.rows import Row

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
RULES = Rules()
JSON = (b"content-type", b"application/json")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Client:
    """One request as a server would hand it to an application, and what it answered."""

    def __init__(self, path: str, body: bytes | None, *headers: tuple[bytes, bytes], method: str = "") -> None:
        method = method or ("GET" if body is None else "POST")
        pairs = [(b"host", b"127.0.0.1:8080"), *([JSON] if body is not None else []), *headers]
        self.presence = Presence()
        self.scope = {"type": "http", "method": method, "raw_path": path.encode(), "headers": pairs}
        self.scope |= {"server": ("127.0.0.1", 8080), PRESENCE: self.presence}
        self._parts = [body or b""]
        self.seen: list[dict[str, Any]] = []
        self.on_body: Callable[[bytes], None] = lambda data: None

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self._parts.pop(0), "more_body": bool(self._parts)}

    async def send(self, message: dict[str, Any]) -> None:
        self.seen.append(message)
        if message["type"] == "http.response.body" and message["body"]:
            self.on_body(message["body"])

    @property
    def status(self) -> int:
        return int(self.seen[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.seen[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.seen[1:])

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


def gateway(
    pool: Pool | None = None,
    rules: Rules = RULES,
    slots: Slots | None = None,
    rows: list[Row] | None = None,
    **target: Any,
) -> Gateway:
    rows = [] if rows is None else rows
    port = pool.port if pool else 1
    chat = Target("chat", "127.0.0.1", port, "served", **target)
    return Gateway(rules, Routes({"chat": chat}, {"gpt": "chat"}, "chat"), slots or Unbounded(), rows.append)


def asked(talk: Talk, body: object = CHAT, path: str = "/v1/chat/completions", **how: Any) -> Client:
    """Return what a client gets that asks a gateway before an engine which does `talk`."""

    async def main() -> Client:
        async with engine(talk) as (pool, _):
            app = gateway(pool, **how)
            client = Client(path, json.dumps(body).encode())
            await app(client.scope, client.receive, client.send)
            await app.close()
            return client

    return asyncio.run(main())


def refused(path: str, body: bytes | None, *headers: tuple[bytes, bytes], **how: Any) -> Client:
    """Return what a client gets that must not reach an engine: there is none."""

    async def main() -> Client:
        client = Client(path, body, *headers, **{key: how.pop(key) for key in [*how] if key == "method"})
        app = gateway(**how)
        await app(client.scope, client.receive, client.send)
        return client

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["chat", "gpt", "local", None])
def test_an_engine_is_asked_by_the_name_that_it_serves(name):
    told = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await request(reader))
        writer.write(OK)

    body = {key: value for key, value in {**CHAT, "model": name, "temperature": 0.5}.items() if value is not None}
    client = asked(talk, body)
    head, _, said = told[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert json.loads(said) == {**body, "model": "served"}
    assert (client.status, client.body) == (200, b"{}")


def test_nothing_of_the_clients_headers_reaches_the_engine():
    told = []

    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.append(await request(reader))
            writer.write(OK)

        async with engine(talk) as (pool, _):
            app = gateway(pool)
            more = [(b"authorization", b"Bearer sk-secret"), (b"cookie", b"a=b"), (b"x-forwarded-for", b"1.2.3.4")]
            client = Client("/v1/chat/completions", json.dumps(CHAT).encode(), *more)
            await app(client.scope, client.receive, client.send)
            await app.close()

    asyncio.run(main())
    names = {line.partition(b":")[0] for line in told[0].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert names == {b"host", b"content-type", b"content-length", b"accept-encoding"}


def test_a_stream_passes_as_it_comes():
    async def main() -> Client:
        seen = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(SSE + chunk(b'data: {"a":1}\n\n'))
            await seen.wait()
            writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))

        async with engine(talk) as (pool, _):
            client = Client("/v1/chat/completions", json.dumps({**CHAT, "stream": True}).encode())
            client.on_body = lambda data: seen.set()
            app = gateway(pool)
            await app(client.scope, client.receive, client.send)
            await app.close()
            return client

    client = asyncio.run(main())
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream"
    assert client.body == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert client.seen[-1] == {"type": "http.response.body", "body": b""}


@pytest.mark.parametrize(
    ("path", "begins"),
    [("/v1/chat/completions", b""), ("/v1/messages", b"event: error\n")],
    ids=["openai", "anthropic"],
)
def test_F83_a_stream_that_breaks_off_ends_with_an_error_in_the_clients_words(path, begins):
    body = {**CHAT, "stream": True, "max_tokens": 9}
    client = asked(answering(SSE + chunk(b'data: {"a"')), body, path, anthropic=True)
    rest = client.body.removeprefix(b'data: {"a"\n\n' + begins + b"data: ")
    assert json.loads(rest)["error"]["message"] == "the engine of chat failed: it ended the connection"
    assert rest.endswith(b"\n\n")


def test_F83_a_client_that_leaves_ends_the_work_for_it():
    async def main() -> list[dict[str, Any]]:
        ended = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            client.presence.leave()
            await reader.read()
            ended.set()

        async with engine(talk) as (pool, _):
            client = Client("/v1/chat/completions", json.dumps(CHAT).encode())
            app = gateway(pool)
            await app(client.scope, client.receive, client.send)
            await asyncio.wait_for(ended.wait(), 10)
            await app.close()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        return client.seen

    assert asyncio.run(main()) == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_outlasts_the_time_to_end_is_told_so(stream):
    rows: list[Row] = []

    async def main() -> Client:
        waiting = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            if stream:
                writer.write(SSE + chunk(b"data: {}\n\n"))
            else:
                waiting.set()
            await reader.read()

        async with engine(talk) as (pool, _):
            client = Client("/v1/chat/completions", json.dumps({**CHAT, "stream": stream}).encode())
            client.on_body = lambda data: waiting.set()
            app = gateway(pool, rows=rows)
            task = asyncio.ensure_future(app(client.scope, client.receive, client.send))
            await asyncio.wait_for(waiting.wait(), 10)
            task.cancel()
            await task
            await app.close()
            return client

    client = asyncio.run(main())
    said = client.body.rpartition(b"data: ")[2] if stream else client.body
    assert json.loads(said)["error"]["message"] == "the gateway ends"
    assert [(row.status, row.partial) for row in rows] == [(503, True)]
    assert (client.status, client.seen[-1].get("more_body", False)) == (200 if stream else 503, False)


def answer(head: str, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "ended the connection"),
        (answer("200 OK\r\ncontent-type: text/html", b"<html>"), "text/html"),
        (answer("200 OK\r\ncontent-type: application/json", b'{"a": '), "no JSON object"),
        (answer("200 OK\r\ncontent-type: application/json", b"[1]"), "no JSON object"),
        (answer("200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip"), "packed"),
        (answer("302 Found\r\nlocation: http://evil.example/"), "302"),
        (answer("500 Oops\r\ncontent-type: application/json", b"\x1b[31m"), "no JSON object"),
        (answer("200 OK\r\nx: \x1b[31m"), "no HTTP"),
        (answer("200 OK"), "no content type"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "failed"),
    ],
    ids=["nothing", "html", "half", "list", "packed", "redirect", "no json", "escape", "no type", "encodings"],
)
def test_I128_what_no_engine_may_say_is_502(said, why):
    client = asked(answering(said))
    assert (client.status, client.error["code"]) == (502, "upstream_error")
    assert why in client.error["message"]


@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_engines_own_error_is_passed_on(status):
    said = json.dumps({"error": {"message": "the prompt is too long"}}).encode()
    client = asked(answering(answer(f"{status} No\r\ncontent-type: application/json; charset=utf-8", said)))
    assert (client.status, client.body) == (status, said)


def test_an_engine_that_loads_says_when_to_come_again():
    said = json.dumps({"error": {"message": "Loading model"}}).encode()
    client = asked(answering(answer("503 Loading\r\ncontent-type: application/json", said)))
    assert (client.status, client.headers[b"retry-after"]) == (503, b"1")


def test_an_engine_that_does_not_run_is_503_with_the_command():
    client = refused("/v1/chat/completions", json.dumps(CHAT).encode())
    assert (client.status, client.headers[b"retry-after"]) == (503, b"5")
    assert client.error["message"] == "chat does not run: start it with `lmctl start chat`"


def test_an_engine_that_never_answers_is_504():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    client = asked(talk, rules=Rules(request_timeout=0.05))
    assert (client.status, client.error["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("backend", [{"anthropic": False}])
def test_a_dialect_that_the_engine_does_not_speak_is_told_in_it(backend):
    client = refused("/v1/messages", json.dumps({**CHAT, "max_tokens": 9}).encode(), **backend)
    assert client.status == 404
    assert client.error["type"] == "not_found_error"


def test_I124_a_body_above_the_limit_is_413_before_it_is_read():
    length = (b"content-length", b"33554433")
    client = refused("/v1/chat/completions", b"{}", length)
    assert (client.status, client.headers[b"connection"]) == (413, b"close")


def test_I124_a_body_that_grows_above_the_limit_is_413():
    client = refused("/v1/chat/completions", b"x" * 101, rules=Rules(max_body=100))
    assert client.status == 413


def test_the_models_are_the_profiles():
    client = refused("/v1/models", None)
    model = {"id": "chat", "object": "model", "created": 0, "owned_by": "lmctl"}
    assert json.loads(client.body) == {"object": "list", "data": [model]}
    assert json.loads(refused("/v1/models/gpt", None).body) == model
    assert refused("/v1/models/other", None).status == 404


@pytest.mark.parametrize("path", ["/api/pull", "/api/blobs/sha256:0"])
def test_what_is_not_served_is_404(path):
    assert refused(path, b"{}").status == 404


def test_F85_a_page_of_another_origin_reaches_nothing():
    evil = (b"origin", b"https://evil.example")
    assert refused("/v1/chat/completions", json.dumps(CHAT).encode(), evil).status == 403
    mine = refused(
        "/v1/models",
        None,
        (b"origin", b"https://mine.example"),
        rules=Rules(origins=frozenset(["https://mine.example"])),
    )
    assert mine.headers[b"access-control-allow-origin"] == b"https://mine.example"


def told(*said: bytes, body: object = CHAT, path: str = "/v1/chat/completions", **how: Any) -> tuple[Client, Row]:
    """Return what a client gets, and the one row that is noted of it."""
    rows: list[Row] = []
    client = asked(answering(b"".join(said)), body, path, rows=rows, **how)
    (row,) = rows
    return client, row


def test_a_row_tells_what_the_engine_told():
    said = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "timings": {"cache_n": 2, "predicted_per_second": 9}}
    client, row = told(answer("200 OK\r\ncontent-type: application/json", json.dumps(said).encode()), backend="mlx")
    assert (row.profile, row.backend, row.endpoint, row.status) == ("chat", "mlx", "/v1/chat/completions", 200)
    assert (row.tokens_in, row.tokens_cached, row.tokens_out, row.tokens_per_s) == (7, 2, 3, 9.0)
    assert (row.target, row.partial) == ("local", False)
    assert client.status == 200


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


@pytest.mark.parametrize("asks", [True, False, None])
def test_a_stream_is_asked_for_its_tokens_and_they_are_hidden_from_who_did_not_ask(asks):
    heard = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(json.loads((await request(reader)).partition(b"\r\n\r\n")[2]))
        writer.write(SSE + chunk(b'data: {"a":1}\n\n') + chunk(USAGE) + chunk(b"data: [DONE]\n\n") + chunk(b""))

    options = {} if asks is None else {"stream_options": {"include_usage": asks}}
    rows: list[Row] = []
    client = asked(talk, {**CHAT, "stream": True, **options}, rows=rows)
    assert heard[0]["stream_options"] == {"include_usage": True}
    assert (USAGE in client.body) is (asks is True)
    assert client.body.replace(USAGE, b"") == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    (row,) = rows
    assert (row.tokens_in, row.tokens_out, row.partial) == (7, 3, False)
    assert row.ttft_ms is not None and row.ttft_ms <= row.duration_ms


def test_F83_a_stream_that_breaks_off_is_a_partial_row():
    _, row = told(SSE, chunk(b'data: {"a":1}\n\n'), body={**CHAT, "stream": True})
    assert (row.status, row.partial, row.tokens_out) == (502, True, None)


UNTOLD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"  # the end of the connection ends it


@pytest.mark.parametrize(("last", "status"), [(b"data: [DONE]\n\n", 200), (b"", 502), (b"data: [DO", 502)])
def test_F83_a_stream_that_only_its_connection_ends_is_whole_with_its_last_event(last, status):
    client, row = told(UNTOLD + b'data: {"a":1}\n\n' + last, body={**CHAT, "stream": True})
    assert (row.status, row.partial) == (status, status != 200)
    assert (b'"upstream_error"' in client.body) is (status != 200)


def test_what_is_refused_before_a_profile_is_known_is_no_row():
    rows: list[Row] = []
    refused("/v1/chat/completions", b'{"model": "unknown", "messages": []}', rows=rows)
    assert rows == []


@pytest.mark.parametrize(
    ("said", "status"), [(answer("500 No\r\ncontent-type: application/json", b'{"error": 1}'), 500), (b"", 502)]
)
def test_what_an_engine_does_not_answer_is_a_row_without_tokens(said, status):
    _, row = told(said)
    assert (row.status, row.tokens_in, row.tokens_out) == (status, None, None)


class Asleep(Unbounded):
    """Slots of an engine that is started for whoever waits."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.taken, self.why = asyncio.Event(), 0, None

    def enter(self, name: str) -> bool:
        return False

    async def wait(self, name: str) -> None:
        await self.up.wait()
        if self.why is not None:
            raise self.why
        self.taken += 1

    def leave(self, name: str) -> None:
        self.taken -= 1


def woken(why: Refused | None, stream: bool, said: bytes = OK, path: str = "/v1/chat/completions") -> Client:
    """Return what a client gets whose engine needs a while to start, or does not."""

    async def main() -> Client:
        slots = Asleep()
        async with engine(answering(said)) as (pool, _):
            client = Client(path, json.dumps({**CHAT, "stream": stream}).encode())
            app = gateway(pool, rules=Rules(quiet=0.01), slots=slots, anthropic=True)
            slots.why = why
            client.on_body = lambda data: slots.up.set()
            if not stream:
                slots.up.set()
            await app(client.scope, client.receive, client.send)
            await app.close()
        assert slots.taken == 0
        return client

    return asyncio.run(main())


def test_a_stream_that_waits_for_its_engine_is_kept_alive_by_comments():
    said = SSE + chunk(b"data: {}\n\n") + chunk(b"")
    client = woken(None, True, said)
    assert client.status == 200
    begin, _, rest = client.body.partition(b"data:")
    assert set(begin.split(b"\n\n")) == {b": waiting for the model", b""}
    assert rest == b" {}\n\n"


@pytest.mark.parametrize(
    ("path", "begins"),
    [("/v1/chat/completions", b""), ("/v1/messages", b"event: error\n")],
    ids=["openai", "anthropic"],
)
def test_an_engines_own_error_in_a_stream_that_waited_is_an_error_in_the_clients_words(path, begins):
    error = b'{"error":{"message":"too long","type":"invalid_request_error"}}'
    client = woken(None, True, answer("400 Bad\r\ncontent-type: application/json", error), path)
    assert client.body.endswith(b"\n\n" + begins + b"data: " + error + b"\n\n")


def test_a_stream_whose_engine_does_not_start_ends_with_the_reason():
    client = woken(Refused(503, "start_failed", "it does not start"), True)
    assert client.status == 200
    assert json.loads(client.body.rpartition(b"data: ")[2])["error"]["code"] == "start_failed"


def test_a_request_whose_engine_does_not_start_is_told_with_a_status():
    client = woken(Refused(503, "start_failed", "it does not start", headers=(("Retry-After", "9"),)), False)
    assert (client.status, client.headers[b"retry-after"]) == (503, b"9")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits_gives_its_place_up(stream):
    async def main() -> None:
        slots, rows = Asleep(), list[Row]()
        client = Client("/v1/chat/completions", json.dumps({**CHAT, "stream": stream}).encode())
        app = gateway(rules=Rules(quiet=0.01), slots=slots, rows=rows)
        task = asyncio.ensure_future(app(client.scope, client.receive, client.send))
        await asyncio.sleep(0.05)
        client.presence.leave()
        await task
        assert slots.taken == 0
        (row,) = rows
        assert (row.status, row.partial) == (499, True)

    asyncio.run(main())


def test_an_engine_is_given_its_key_and_nobody_elses():
    heard = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await request(reader))
        writer.write(OK)

    asked(talk, key=b"the-engines")
    assert b"\r\nauthorization: Bearer the-engines\r\n" in heard[0]


def test_on_a_profiles_own_port_any_name_will_do_and_no_key_is_asked():
    async def main() -> tuple[Client, Client]:
        async with engine(answering(OK, OK)) as (pool, _):
            chat = Target("chat", "127.0.0.1", pool.port, "served")
            routes = Routes({"chat": chat}, ports={8081: ("chat",)})
            app = Gateway(Rules(keys=frozenset([b"x" * 32])), routes, Unbounded(), lambda row: None)
            clients = []
            for port in (8081, 8080):
                client = Client("/v1/chat/completions", json.dumps({**CHAT, "model": "anything"}).encode())
                client.scope["server"] = ("127.0.0.1", port)
                await app(client.scope, client.receive, client.send)
                clients.append(client)
            await app.close()
        return clients[0], clients[1]

    own, front = asyncio.run(main())
    assert (own.status, front.status) == (200, 401)


class Standing(Unbounded):
    """Slots of engines that stand as a test says."""

    def __init__(self, **states: State) -> None:
        super().__init__()
        self._states = {name: Stands(state, 0, 0) for name, state in states.items()}

    def states(self) -> Mapping[str, Stands]:
        return self._states


@pytest.mark.parametrize("state", ["starting", "loading", "ready", "draining"])
def test_on_a_port_of_several_profiles_the_one_that_runs_answers_who_names_none(state):
    async def main() -> list[bytes]:
        told: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.append(await request(reader))
            writer.write(OK)

        async with engine(talk) as (pool, _):
            targets = {name: Target(name, "127.0.0.1", pool.port, name) for name in ("first", "second")}
            routes = Routes(targets, ports={8081: ("first", "second")})
            app = Gateway(RULES, routes, Standing(first="asleep", second=state), lambda row: None)
            client = Client("/v1/chat/completions", json.dumps({"messages": CHAT["messages"]}).encode())
            client.scope["server"] = ("127.0.0.1", 8081)
            await app(client.scope, client.receive, client.send)
            await app.close()
        return told

    (said,) = asyncio.run(main())
    assert json.loads(said.partition(b"\r\n\r\n")[2])["model"] == "second"


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/metrics"])
def test_F85_a_profiles_own_port_asks_everybody_for_a_key_who_comes_from_elsewhere(path):
    async def main(here: str) -> int:
        app = Gateway(Rules(keys=frozenset([b"x" * 32])), Routes(ports={8081: ("chat",)}), Unbounded(), lambda _: None)
        client = Client(path, None)
        client.scope["server"] = (here, 8081)
        await app(client.scope, client.receive, client.send)
        return client.status

    found = {here: asyncio.run(main(here)) for here in ("127.0.0.1", "::1", "192.0.2.7", "2001:db8::7")}
    assert found == {"127.0.0.1": 200, "::1": 200, "192.0.2.7": 401, "2001:db8::7": 401}


@pytest.mark.parametrize(
    ("here", "host", "status"),
    [
        ("192.0.2.7", b"192.0.2.7:8080", 200),
        ("2001:db8::7", b"[2001:db8::7]:8080", 200),
        ("192.0.2.7", b"192.0.2.8:8080", 403),
        ("192.0.2.7", b"evil.example", 403),
    ],
)
def test_F85_who_came_to_an_address_of_this_machine_may_call_it_so(here, host, status):
    async def main() -> int:
        client = Client("/v1/models", None)
        client.scope["server"], client.scope["headers"] = (here, 8080), [(b"host", host)]
        app = gateway()
        await app(client.scope, client.receive, client.send)
        return client.status

    assert asyncio.run(main()) == status


def test_metrics_tell_what_was_asked():
    async def main() -> bytes:
        async with engine(answering(OK)) as (pool, _):
            app = gateway(pool)
            for path, body in (("/v1/chat/completions", json.dumps(CHAT).encode()), ("/metrics", None)):
                client = Client(path, body)
                await app(client.scope, client.receive, client.send)
            await app.close()
        assert client.headers[b"content-type"].startswith(b"text/plain; version=0.0.4")
        return client.body

    assert b'lmctl_requests_total{endpoint="chat",profile="chat",status="200"} 1.0' in asyncio.run(main())


def test_F83_of_a_stream_whose_client_leaves_the_engine_counts_the_tokens():
    async def main() -> Row:
        rows: list[Row] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await request(reader)
            if asked.startswith(b"POST /v1/"):
                said = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
                writer.write(SSE + chunk(said))
                await reader.read()
                return
            told = (
                {"prompt": "<user>Hello"} if b"/apply-template" in asked else {"tokens": [1] * (2 + asked.count(b"<"))}
            )
            writer.write(
                answer("200 OK\r\nconnection: close\r\ncontent-type: application/json", json.dumps(told).encode())
            )

        async with engine(talk) as (pool, _):
            app = gateway(pool, rows=rows, backend="llama.cpp")
            client = Client("/v1/chat/completions", json.dumps({**CHAT, "stream": True}).encode())
            client.on_body = lambda data: None if client.presence.gone else client.presence.leave()
            await app(client.scope, client.receive, client.send)
            async with asyncio.timeout(10):
                while not rows:
                    await asyncio.sleep(0.01)
            await app.close()
        (row,) = rows
        return row

    row = asyncio.run(main())
    assert (row.status, row.partial, row.tokens_in, row.tokens_out) == (499, True, 3, 2)


class Restarted(Unbounded):
    """Slots of an engine that died: whoever tells so waits until it is back."""

    def __init__(self, back: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.told, self._back = list[str](), back

    def enter(self, name: str) -> bool:
        self.told.append("enter")
        return "lost" not in self.told

    async def wait(self, name: str) -> None:
        self.told.append("wait")
        await self._back()

    def leave(self, name: str) -> None:
        self.told.append("leave")

    def lost(self, name: str) -> None:
        self.told.append("lost")


@pytest.mark.parametrize("comes", [True, False])
def test_a_request_to_an_engine_that_just_died_waits_for_it_once(comes):
    async def main() -> tuple[Client, list[str]]:
        async with engine(answering(OK)) as (pool, _):
            dead = Target("chat", "127.0.0.1", 1, "served")

            async def back() -> None:
                if comes:
                    object.__getattribute__(dead, "__dict__")["port"] = pool.port  # it listens again

            slots = Restarted(back)
            app = Gateway(RULES, Routes({"chat": dead}), slots, lambda row: None)
            client = Client("/v1/chat/completions", json.dumps(CHAT).encode())
            await app(client.scope, client.receive, client.send)
            await app.close()
        return client, slots.told

    client, told = asyncio.run(main())
    assert client.status == (200 if comes else 503)
    assert told == ["enter", "lost", "leave", "enter", "wait", *([] if comes else ["lost"]), "leave"]


def test_F83_what_a_cloud_streams_in_a_profiles_place_is_neither_kept_nor_counted_by_it():
    async def main() -> tuple[list[bytes], Row]:
        asked: list[bytes] = []
        rows: list[Row] = []

        async def cloud(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await request(reader)).partition(b" HTTP")[0])
            writer.write(SSE + chunk(b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'))

        async with engine(answering(SSE)) as (near, _), engine(cloud) as (far, _):
            chat = Target("chat", "127.0.0.1", near.port, "served", backend="llama.cpp")
            away = Target("cloud:far", "127.0.0.1", far.port, "large", cloud=Elsewhere(secure=False))
            routes = Routes({"chat": chat}, clouds={"far": away}, fallback={"chat": ("far",)})
            app = Gateway(RULES, routes, Unbounded(), rows.append)
            client = Client("/v1/chat/completions", json.dumps({**CHAT, "stream": True}).encode())
            await app(client.scope, client.receive, client.send)
            async with asyncio.timeout(10):
                while not rows:
                    await asyncio.sleep(0.01)
            await app.close()
        (row,) = rows
        return asked, row

    before = Kept._all
    asked, row = asyncio.run(main())
    assert (row.target, row.partial, row.tokens_out) == ("cloud:far", True, None)
    assert asked == [b"POST /v1/chat/completions"]
    assert Kept._all == before
