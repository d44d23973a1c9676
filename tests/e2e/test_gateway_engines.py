"""Real engines behind the gateway: MLX's server, and what llama.cpp's tokenizer counts of a stream that was cut."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import openai
import pytest
from e2e_tools import profile, until
from weights import mlx
from weights.hello import hello

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@contextmanager
def fronted(machine: Any, text: str) -> Iterator[openai.OpenAI]:
    """Apply `text` with a gateway in front of it; a client of that."""
    number = machine.gateway()
    machine.declare(text)
    machine.run("apply")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{number}/v1", api_key="none", max_retries=0) as client:
        yield client


def rows(machine: Any, count: int) -> list[dict[str, Any]]:
    """Return what usage.db holds once there are so many rows."""
    file = machine.state() / "usage.db"

    def written() -> list[dict[str, Any]]:
        found = []
        with suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row  # it is not there until the first row is, and then empty for a moment
            found = [dict(row) for row in db.execute("SELECT * FROM request ORDER BY rowid")]
        return found if len(found) >= count else []

    return list(until(written))


def test_mlx_behind_the_gateway(machine, port):
    pytest.importorskip("mlx_lm")
    mlx.write(machine.folder / "apple", "From a folder.")
    text = profile("apple", path="apple", backend="mlx", port=port())
    with fronted(machine, text) as client:
        whole = client.chat.completions.create(model="apple", messages=HELLO, max_tokens=32)
        assert whole.choices[0].message.content == "From a folder."
        stream = client.chat.completions.create(model="apple", messages=HELLO, max_tokens=32, stream=True)
        pieces = [part.choices[0].delta.content or "" for part in stream]  # none without choices: nobody asked for it
        assert "".join(pieces) == "From a folder."
        with pytest.raises(openai.BadRequestError, match="adapters is not allowed"):
            client.chat.completions.create(model="apple", messages=HELLO, extra_body={"adapters": "/tmp/evil"})
        found = rows(machine, 2)
    assert whole.usage is not None
    told = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert [(row["tokens_in"], row["tokens_out"]) for row in found] == [told, told]
    assert {(row["profile"], row["model"], row["backend"], row["status"]) for row in found} == {
        ("apple", "apple", "mlx", 200)
    }


def test_F83_a_stream_whose_client_leaves_is_counted_by_llama_cpps_own_tokenizer(machine, port: Callable[[], int]):
    (machine.folder / "long.gguf").write_bytes(hello(" ".join(f"w{number}" for number in range(700))))
    text = profile("long", path="long.gguf", port=port(), ctx=4096)
    with fronted(machine, text) as client:
        short = client.chat.completions.create(model="long", messages=HELLO, max_tokens=1)
        asked = client.chat.completions.create(model="long", messages=HELLO, stream=True, max_tokens=2000)
        with asked as stream:
            next(iter(stream))
        first, cut = rows(machine, 2)
    assert short.usage is not None
    assert (first["partial"], first["tokens_out"]) == (0, 1)
    assert (cut["partial"], cut["status"]) == (1, 499), json.dumps(cut)
    assert cut["tokens_in"] == short.usage.prompt_tokens
    assert cut["tokens_out"] is not None and cut["tokens_out"] >= 0
