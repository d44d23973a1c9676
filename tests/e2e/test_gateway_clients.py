"""Clients of every dialect with nothing but their base address changed, in front of the real engine."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
from e2e_tools import profile
from fakes.ports import free_port
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

SENTENCE = "Hello from here."
# as the template beside the weights has it called: llama.cpp's server reads it as a call
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
TEMPLATE = Path(__file__).parents[1] / "weights/tools.jinja"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PARIS = {"city": "Paris"}


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: where
    """
    return f"rain in {city}"


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def base(lasting_machine: Any) -> Iterator[str]:
    """The address of a gateway in front of three profiles: one says a sentence, one calls a tool, one embeds."""
    machine = lasting_machine
    machine.hello(SENTENCE)
    machine.hello(CALL, "calls.gguf")
    shutil.copy(TEMPLATE, machine.folder / "tools.jinja")
    number = free_port()
    text = profile("hello", path="hello.gguf", port=free_port(), ctx=1024)
    text += profile("calls", path="calls.gguf", port=free_port(), ctx=2048, chat_template="tools.jinja")
    text += profile("embed", path="hello.gguf", port=free_port(), ctx=1024, embeddings=True, pooling="mean")
    machine.declare(f'{text}\n[gateway]\nport = {number}\ndefault = "hello"\n')
    machine.foreground()
    machine.run("apply")
    process = machine.start("gateway")
    assert "answers for hello, calls, embed" in process.stderr.readline()
    yield f"http://127.0.0.1:{number}"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


@pytest.fixture
def client(base: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=base) as client:
        yield client


def test_ollamas_client(client):
    answer = client.chat(model="hello", messages=HELLO, options={"num_predict": 32, "temperature": 0})
    assert (answer.message.content, answer.done_reason, answer.model) == (SENTENCE, "stop", "hello")
    assert answer.eval_count and answer.prompt_eval_count and answer.eval_duration and answer.total_duration
    assert client.generate(model="hello:latest", prompt="Hello").response == SENTENCE
    assert client.generate(model="hello", prompt="Hello", raw=True).response == SENTENCE
    cut = client.chat(model="hello", messages=HELLO, options={"num_predict": 2})
    assert (cut.done_reason, cut.eval_count) == ("length", 2)
    endless = client.chat(model="hello", messages=HELLO, options={"num_predict": -1})
    assert endless.message.content == SENTENCE
    told = client.chat(model="hello", messages=HELLO, format={"enum": ["yes"]})
    assert json.loads(str(told.message.content)) == "yes"

    parts = list(client.chat(model="hello", messages=HELLO, stream=True))
    assert "".join(part.message.content or "" for part in parts) == SENTENCE
    assert len(parts) > 3 and [part.done for part in parts] == [*(False for _ in parts[1:]), True]
    assert parts[-1].eval_count and parts[-1].eval_duration
    pieces = list(client.generate(model="hello", prompt="Hello", stream=True))
    assert "".join(part.response or "" for part in pieces) == SENTENCE

    assert client.generate(model="hello").done_reason == "load"
    assert client.chat(model="hello", keep_alive=0).done_reason == "unload"
    with pytest.raises(ollama.ResponseError, match="did you mean hello") as refused:
        client.chat(model="helo", messages=HELLO)
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="declare it in the profile"):
        client.chat(model="hello", messages=HELLO, options={"num_gpu": 1})
    with pytest.raises(ollama.ResponseError, match="not served here"):
        client.pull("hello")
    with pytest.raises(ollama.ResponseError, match="image input is not supported"):
        client.chat(model="hello", messages=[{**HELLO[0], "images": [b"\x89PNG\r\n\x1a\n"]}])


def test_ollamas_client_asks_of_models(client):
    listed = {model.model: model for model in client.list().models}
    assert [*listed] == ["hello", "calls", "embed"]
    details = listed["hello"].details
    assert (details.format, details.family) == ("gguf", "llama")
    assert listed["hello"].size and len(listed["hello"].digest) == 64
    shown = client.show("hello:latest")
    assert shown.modelinfo["llama.context_length"] == 4096
    assert shown.capabilities == ["completion", "tools"]
    assert client.show("embed").capabilities == ["embedding"]
    client.chat(model="hello", messages=HELLO)
    running = {model.model: model for model in client.ps().models}
    assert running["hello"].context_length == 1024 and running["hello"].expires_at.year == 2300


def test_ollamas_client_calls_tools(client):
    asked: list[Any] = [*HELLO]
    answer = client.chat(model="calls", messages=asked, tools=[weather])
    calls = answer.message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [("weather", PARIS)]
    asked += [answer.message, {"role": "tool", "tool_name": "weather", "content": weather("Paris")}]
    assert client.chat(model="calls", messages=asked, tools=[weather]).done
    parts = list(client.chat(model="calls", messages=HELLO, tools=[weather], stream=True))
    told = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in told] == [("weather", PARIS)]
    assert parts[-1].done_reason == "stop"


def test_ollamas_async_client_at_once_for_many(base):
    async def main() -> None:
        async with ollama.AsyncClient(host=base) as client:
            answers = await asyncio.gather(*(client.chat(model="hello", messages=HELLO) for _ in range(8)))
            assert {answer.message.content for answer in answers} == {SENTENCE}
            stream = await client.chat(model="hello", messages=HELLO, stream=True)
            assert "".join([part.message.content or "" async for part in stream]) == SENTENCE

    asyncio.run(main())


def test_embeddings_are_the_same_in_every_dialect(base, client):
    vectors = client.embed(model="embed", input=["Hello", "from"]).embeddings
    assert len(vectors) == 2 and math.isclose(math.hypot(*vectors[0]), 1, rel_tol=1e-3)
    assert client.embeddings(model="embed", prompt="Hello").embedding == pytest.approx(vectors[0])
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as other:
        for form in ("float", "base64"):
            found = other.embeddings.create(model="embed", input=["Hello", "from"], encoding_format=form)
            assert len(found.data) == 2
        plain = other.embeddings.create(model="embed", input="Hello").data[0].embedding
    assert plain == pytest.approx(vectors[0], abs=1e-5)
    with httpx.Client() as http:
        how: Any = {"base_url": f"{base}/v1", "api_key": "none", "http_client": http}
        chain = OpenAIEmbeddings(model="embed", check_embedding_ctx_length=False, **how)
        assert chain.embed_query("Hello") == pytest.approx(vectors[0], abs=1e-5)
    with pytest.raises(ollama.ResponseError, match="embeddings"):
        client.embed(model="hello", input="Hello")


def test_openais_client_calls_tools(base):
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
        message = client.chat.completions.create(model="calls", messages=HELLO, tools=TOOLS).choices[0].message
        assert [json.loads(call.function.arguments) for call in message.tool_calls] == [PARIS]
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
        again = client.chat.completions.create(model="calls", messages=[*HELLO, message, result], tools=TOOLS)
        assert again.choices[0].finish_reason in ("stop", "tool_calls")
        stream = client.chat.completions.create(model="calls", messages=HELLO, tools=TOOLS, stream=True)
        deltas = [call for part in stream if part.choices for call in part.choices[0].delta.tool_calls or ()]
    assert json.loads("".join(call.function.arguments or "" for call in deltas)) == PARIS


def test_anthropics_client(base):
    with anthropic.Anthropic(base_url=base, api_key="none", max_retries=0) as client:
        answer = client.messages.create(model="hello", max_tokens=32, messages=HELLO)
        assert [block.text for block in answer.content] == [SENTENCE]
        assert answer.usage.output_tokens > 0
        with client.messages.stream(model="hello", max_tokens=32, messages=HELLO) as stream:
            assert "".join(stream.text_stream) == SENTENCE
        assert client.messages.count_tokens(model="hello", messages=HELLO).input_tokens > 0
        tool = {"name": "weather", "input_schema": SCHEMA}
        called = client.messages.create(model="calls", max_tokens=64, messages=HELLO, tools=[tool])
        assert [block.input for block in called.content if block.type == "tool_use"] == [PARIS]
        with pytest.raises(anthropic.NotFoundError, match="did you mean hello"):
            client.messages.create(model="helo", max_tokens=32, messages=HELLO)


def test_langchains_client(base):
    with httpx.Client() as http:
        how: Any = {"base_url": f"{base}/v1", "api_key": "none", "max_retries": 0, "http_client": http}
        chat = ChatOpenAI(model="hello", **how)
        assert chat.invoke("Hello").content == SENTENCE
        pieces = list(chat.stream("Hello"))
        assert "".join(str(piece.content) for piece in pieces) == SENTENCE and len(pieces) > 2
        calls = ChatOpenAI(model="calls", **how).bind_tools([weather])
        assert [call["args"] for call in calls.invoke("Hello").tool_calls] == [PARIS]


def test_curl(base):
    def curl(path: str, *words: str) -> str:
        argv = ["curl", "-sS", "--noproxy", "*", "-m", "60", *words, f"{base}{path}"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    body = json.dumps({"model": "hello", "messages": HELLO, "stream": False})
    typed = ("-H", "Content-Type: application/json", "-d", body)
    assert json.loads(curl("/v1/chat/completions", *typed))["choices"][0]["message"]["content"] == SENTENCE
    assert json.loads(curl("/api/chat", *typed))["message"]["content"] == SENTENCE
    assert "Content-Type: application/json" in json.loads(curl("/api/chat", "-d", body))["error"]
    lines = curl("/api/generate", *typed[:3], '{"model": "hello", "prompt": "Hello"}').splitlines()
    assert "".join(json.loads(line)["response"] for line in lines) == SENTENCE
    head = curl("/", "-I").splitlines()
    assert head[0].split()[1] == "200" and "content-length: 19" in map(str.lower, head)
    assert curl("/") == "lmctl answers here\n"
    assert json.loads(curl("/api/tags"))["models"][0]["name"] == "hello"
    assert 'lmctl_requests_total{endpoint="ollama_chat"' in curl("/metrics") or "lmctl_requests_total" in curl(
        "/metrics"
    )
