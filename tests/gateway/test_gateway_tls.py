"""Connections to clouds: over TLS, to the name that was asked for, and never twice with one request."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import truststore
import uvloop
from fakes.raw_engine import OK, engine, request

from lmctl.gateway.connection import Broken
from lmctl.gateway.upstream import Pool, Unreachable

LOOPS: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody signed, for the name localhost."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


def asked(certificate: Path, host: str, trust: ssl.SSLContext, loop: Callable[[], Any]) -> tuple[Any, list[bytes]]:
    """Return what a request over TLS gets, an answer or why there is none, and the requests that arrived."""
    told: list[bytes] = []

    async def main() -> Any:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.append(await request(reader))
            writer.write(OK)
            await writer.drain()
            writer.close()

        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(certificate, certificate.with_name("key.pem"))
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=serving)
        pool = Pool(host, server.sockets[0].getsockname()[1], trust)
        try:
            async with await pool.ask(b"POST", b"/v1/x", [(b"a", b"b")], b"{}") as exchange:
                return await exchange.body(99)
        except Unreachable as error:
            return str(error)
        finally:
            pool.close()
            server.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main()), told


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_cloud_that_proves_its_name_is_asked(certificate, loop):
    answer, told = asked(certificate, "localhost", ssl.create_default_context(cafile=str(certificate)), loop)
    assert answer == b"{}"
    assert told[0].startswith(b"POST /v1/x HTTP/1.1\r\nhost: localhost:")


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_F47_one_whose_certificate_nobody_signed_is_told_nothing(certificate, loop):
    answer, told = asked(certificate, "localhost", truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT), loop)
    assert "the certificate of localhost is not trusted" in answer
    assert told == []


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_F47_one_that_proves_another_name_is_told_nothing(certificate, loop):
    answer, told = asked(certificate, "127.0.0.1", ssl.create_default_context(cafile=str(certificate)), loop)
    assert "the certificate of 127.0.0.1 is not trusted" in answer
    assert told == []


@pytest.mark.parametrize(
    ("host", "port", "tls", "named"),
    [
        ("api.example", 443, True, b"api.example"),
        ("api.example", 8443, True, b"api.example:8443"),
        ("127.0.0.1", 80, False, b"127.0.0.1"),
        ("::1", 8080, False, b"[::1]:8080"),
    ],
)
def test_a_server_is_named_as_browsers_name_it(host, port, tls, named):
    async def name() -> bytes:
        return Pool(host, port, ssl.create_default_context() if tls else None).name

    assert asyncio.run(name()) == named


@pytest.mark.parametrize(("again", "heard"), [(True, 3), (False, 2)])
def test_only_an_engine_is_asked_again_on_a_connection_that_was_just_closed(again, heard):
    """An answer on a kept connection never came: a cloud may have begun to work, and to count."""
    told = []

    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (OK, None) if not told else (OK,):
                told.append(await request(reader))
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()

        async with engine(talk) as (known, _):
            pool = Pool(known.host, known.port, again=again)
            for _ in range(2):
                async with await pool.ask(b"POST", b"/", [], b"{}") as exchange:
                    await exchange.body(99)
            pool.close()

    if again:
        asyncio.run(main())
    else:
        with pytest.raises(Broken):
            asyncio.run(main())
    assert len(told) == heard
