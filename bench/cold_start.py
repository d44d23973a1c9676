"""The first answer of a model that sleeps, asked through the gateway, beside its engine started by hand.

    python bench/cold_start.py [--rounds 9]

The engine is the embedded one with tiny weights, and with a shape of 1.3 GB whose weights are a hole in its file. By
hand means: the same argv, started as a process, and asked again and again until it answers. Through the gateway means:
one request, which has the model started under supervisord; it is stopped again after idling. Each round takes all of
these in another order. Medians and their ratios are printed. The machine should be idle.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from weights import shapes  # noqa: E402
from weights.hello import hello  # noqa: E402

from lmctl.spec import program_id  # noqa: E402

SHAPE = {"n_embd": 2048, "n_layer": 12, "n_head": 32, "n_head_kv": 8, "n_ff": 5632, "vocab": 32000}
LMCTL = [sys.executable, "-m", "lmctl"]


def asked(port: int, model: str, key: str = "") -> bool:
    """Ask for one token; return whether it was answered."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
    except OSError:
        return False
    else:
        return answer.status == 200
    finally:
        connection.close()


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def by_hand(state: Path, name: str) -> float:
    """Return the seconds from the start of the program's argv to its first answer."""
    program = json.loads((state / f"programs/{program_id(name)}.json").read_text())
    argv = [sys.executable if word == "{python}" else word for word in program["argv"]]
    port = free()
    argv[argv.index("--port") + 1] = str(port)
    key = (state / program["key_file"]).read_text().strip() if program.get("key_file") else ""
    environ = {"HOME": os.environ["HOME"], "PATH": os.environ["PATH"]}
    begun = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, cwd=state, env=environ, stdout=quiet, stderr=quiet)
    try:
        while not asked(port, name, key):
            time.sleep(0.002)
        return time.perf_counter() - begun
    finally:
        process.kill()
        process.wait()


def through(front: int, state: Path, name: str) -> float:
    """Return the seconds of one request for a model that sleeps, and wait until it sleeps again."""
    begun = time.perf_counter()
    if not asked(front, name):
        raise SystemExit(f"{name} was not answered: see {state}/logs")
    took = time.perf_counter() - begun
    program = json.loads((state / f"programs/{program_id(name)}.json").read_text())
    port = int(program["listen"].rpartition(":")[2])
    for _ in range(3000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            time.sleep(0.02)
            continue
        break
    time.sleep(0.3)
    return took


@contextlib.contextmanager
def declared(home: Path) -> Iterator[tuple[Path, int]]:
    """Two models on demand, and the gateway, in a home of their own; the state folder and the gateway's port."""
    (home / "hello.gguf").write_bytes(hello("Hello."))
    shapes.write(home / "large.gguf", "llama", SHAPE)
    front = free()
    text = f'version = 1\nname = "cold"\n[gateway]\nport = {front}\n[defaults]\nctx = 512\nttl = "250ms"\n'
    text += "".join(f'[profiles.{name}]\npath = "{name}.gguf"\nstart = "on-demand"\n' for name in ("hello", "large"))
    (home / "localmodels.toml").write_text(text)
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    run = {"cwd": home, "env": environ, "stdout": subprocess.DEVNULL}
    subprocess.run([*LMCTL, "apply"], check=True, **run)  # type: ignore[call-overload]
    try:
        yield home / ".local/state/lmctl/cold", front
    finally:
        subprocess.run([*LMCTL, "down"], check=False, **run)  # type: ignore[call-overload]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as held, declared(Path(held)) as (state, front):
        ways = [(name, way) for name in ("hello", "large") for way in ("by hand", "through")]
        for number in range(-1, options.rounds):
            for name, way in random.Random(number).sample(ways, len(ways)):
                took = by_hand(state, name) if way == "by hand" else through(front, state, name)
                if number >= 0:  # the first round warms the files up
                    found.setdefault((name, way), []).append(took)
    print("| model | started | first answer, ms |\n| --- | --- | ---: |")
    middle = {key: statistics.median(times) for key, times in found.items()}
    for (name, way), took in sorted(middle.items()):
        print(f"| {name} | {way} | {took * 1000:.0f} |")
    for name in ("hello", "large"):
        ratio = middle[name, "through"] / middle[name, "by hand"]
        print(f"{name}: through the gateway / by hand: {ratio:.2f} (goal: at most 1.2)")


if __name__ == "__main__":
    main()
