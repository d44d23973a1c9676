"""A stand-in for llama.cpp's `llama-server`: same flags, paths and messages, and faults on demand.

`install(folder)` makes it an executable. A fault is named in the file `<executable>.mode`, or for one model alone in
`<executable>.<alias>.mode`, as `name` or `name=value`; the file is read at the start:

crash_at_start[=status], crash_in=seconds, crash_after=requests, oom and segv (killed by the signal at the start),
hang (accepts connections, answers nothing), wrong_model (lists another id), ignore_term, fork_grandchild (leaves a
child that ignores SIGTERM), spew[=MiB] (logs without end, or that much), binary_log, slow_load[=seconds] (503 for so
long, or as long as the file is there), long_stream (a stream goes on for as long as the file is there).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Long flags of llama-server by the number of their values, from its own help.
_VALUED = """
--model --alias --host --port --cors-origins --cors-methods --cors-headers --ctx-size --parallel
--n-gpu-layers --threads --threads-batch --threads-http --flash-attn --cache-type-k --cache-type-v --cache-ram
--batch-size --ubatch-size --load-mode --n-cpu-moe --n-cpu-ffn --device --main-gpu --split-mode --tensor-split
--override-tensor --override-kv --mmproj --lora --lora-scaled --spec-draft-model --spec-draft-n-max
--spec-draft-n-min --spec-draft-p-min --spec-type --chat-template --chat-template-file --chat-template-kwargs
--pooling --temp --top-p --top-k --min-p --repeat-penalty --repeat-last-n --presence-penalty
--frequency-penalty --seed --predict --n-predict --samplers --typical-p --xtc-probability --xtc-threshold
--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --keep --cache-reuse
--slot-prompt-similarity --slot-save-path --reasoning-format --reasoning-budget --timeout --numa --prio --poll
--cpu-mask --api-key --api-key-file --path --tools --media-path --hf-repo --hf-file --log-file --log-colors
--fit --fit-target
"""
_SWITCHES = """
--offline --metrics --no-kv-unified --kv-unified --embeddings --reranking --no-ui --no-slots --slots --props
--jinja --no-jinja --swa-full --context-shift --no-context-shift --cont-batching --no-cont-batching --warmup
--no-warmup --cpu-moe --kv-offload --no-kv-offload --op-offload --no-op-offload --repack --no-repack
--cache-prompt --no-cache-prompt --no-mmproj --no-perf --log-timestamps --log-prefix --check-tensors --verbose
--special --help --version
"""
FLAGS = dict.fromkeys(_VALUED.split(), 1) | dict.fromkeys(_SWITCHES.split(), 0)
VERSION = "version: 11549 (0a1b2c3d)\nbuilt with GNU 13.3.0 for Linux x86_64\n"
MOMENT = 0.02  # seconds between two looks at the mode file


def install(folder: Path, name: str = "llama-server") -> Path:
    """Write the executable into `folder` and return its path."""
    program = folder / name
    program.write_text(f"#!{sys.executable} -I\n" + Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    program.chmod(0o755)
    return program


def set_mode(program: Path, mode: str | None, alias: str | None = None) -> None:
    """Choose the fault of the next starts, for all models or for one; None for no fault."""
    file = program.with_name(f"{program.name}.{alias}.mode" if alias else f"{program.name}.mode")
    if mode is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(mode)


def parse(argv: list[str]) -> dict[str, str]:
    """Return the flags with their values; exits as the real program does for what it does not know."""
    found, rest = {}, iter(argv)
    for flag in rest:
        if flag not in FLAGS:
            sys.exit(f"error: invalid argument: {flag}")
        value = next(rest, None) if FLAGS[flag] else ""
        if value is None:
            sys.exit(f'error while handling argument "{flag}": expected value for argument')
        found[flag] = value
    return found


class Engine(ThreadingHTTPServer):
    """One model, loaded once `ready` is set; `left` counts down to the request that it does not survive."""

    daemon_threads = True

    def __init__(self, flags: dict[str, str], mode: str, value: str, file: Path) -> None:
        super().__init__((flags["--host"], int(flags["--port"])), Answers)
        self.mode, self.file, self.requests = mode, file, 0
        self.alias = flags.get("--alias") or flags["--model"]
        self.left = int(value) if mode == "crash_after" else None
        self.slots = int(flags.get("--parallel", 4))
        self.ctx = int(flags.get("--ctx-size", 4096)) // self.slots
        self.ready = threading.Event()


class Answers(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        print(f"srv  log_server_r: request: {self.command} {self.path} {self.client_address[0]} 200", file=sys.stderr)

    def do_GET(self) -> None:
        if not self._ready():
            return
        model = "somebody-else" if self.server.mode == "wrong_model" else self.server.alias
        answers = {
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "llamacpp"}]},
            "/props": {"total_slots": self.server.slots, "default_generation_settings": {"n_ctx": self.server.ctx}},
        }
        if self.path == "/metrics":
            self._send(200, f"llamacpp:requests_processing 0\nllamacpp:n_decode_total {self.server.requests}\n")
        elif self.path in answers:
            self._send(200, answers[self.path])
        else:
            self._send(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if not self._ready():
            return
        self.server.requests += 1
        if self.server.left is not None and self.server.requests >= self.server.left:
            os._exit(1)
        words = ["Hello", " from", f" {self.server.alias}", "."]
        if body.get("stream"):
            self._stream(words)
        else:
            usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._send(
                200, {"object": "chat.completion", "model": self.server.alias, "choices": [choice], "usage": usage}
            )

    def _ready(self) -> bool:
        if self.server.mode == "hang":
            time.sleep(3600)
        if not self.server.ready.is_set():
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            self._send(503, {"error": error})
        return self.server.ready.is_set()

    def _send(self, status: int, content: dict[str, object] | str) -> None:
        text, kind = (content, "text/plain") if isinstance(content, str) else (json.dumps(content), "application/json")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _spoken(self, words: list[str]) -> Iterator[str]:
        yield from words
        while self.server.mode == "long_stream" and self.server.file.exists():
            time.sleep(MOMENT)
            yield " and"

    def _stream(self, words: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for word in self._spoken(words):
            chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def _mode_file(program: Path, alias: str) -> Path:
    own = program.with_name(f"{program.name}.{alias}.mode")
    return own if own.exists() else program.with_name(f"{program.name}.mode")


def _misbehave(mode: str, value: str) -> None:
    """Do what the mode asks for before the server listens."""
    if mode == "crash_at_start":
        sys.exit(int(value or 1))
    if mode in ("oom", "segv"):
        os.kill(os.getpid(), signal.SIGKILL if mode == "oom" else signal.SIGSEGV)
    if mode == "ignore_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "fork_grandchild":
        stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
        child = subprocess.Popen([sys.executable, "-I", "-c", stubborn])
        print(f"grandchild {child.pid}", file=sys.stderr, flush=True)
    if mode == "binary_log":
        os.write(2, b"\x1b[31mred\x1b]0;title\x07\0\xff\xfe half \xe2\x82 and no end of line" * 20)
    if mode == "spew":
        threading.Thread(target=_spew, args=[int(value) << 20 if value else None], daemon=True).start()
    if mode == "crash_in":
        threading.Timer(float(value), os._exit, [1]).start()


def _spew(limit: int | None) -> None:
    written = 0
    while limit is None or written < limit:
        written += os.write(2, b"srv  update_slots: nothing of interest happened here at all\n" * 1024)


def _load(engine: Engine, value: str) -> None:
    """Become ready: at once, after `value` seconds, or when the mode file no longer asks for a slow load."""
    if engine.mode == "slow_load" and value:
        time.sleep(float(value))
    while engine.mode == "slow_load" and not value and engine.file.exists():
        time.sleep(MOMENT)
    print("main: model loaded", file=sys.stderr, flush=True)
    engine.ready.set()


def main() -> None:
    flags = parse(sys.argv[1:])
    if "--version" in flags:
        print(VERSION, end="", file=sys.stderr)
        return
    if "--help" in flags:
        print("----- common params -----\n\n" + "".join(f"{flag:40s} (env: none)\n" for flag in FLAGS))
        return
    program = Path(sys.argv[0])
    file = _mode_file(program, flags.get("--alias", ""))
    mode, _, value = (file.read_text().strip() if file.exists() else "").partition("=")
    print(f"main: loading model '{flags['--model']}'", file=sys.stderr, flush=True)
    if not Path(flags["--model"]).is_file():
        sys.exit(f"llama_model_load: error loading model: failed to open GGUF file '{flags['--model']}'")
    _misbehave(mode, value)
    try:
        engine = Engine(flags, mode, value, file)
    except OSError:
        sys.exit(f"srv  start: couldn't bind HTTP server socket, hostname: {flags['--host']}, port: {flags['--port']}")
    threading.Thread(target=_load, args=[engine, value], daemon=True).start()
    engine.serve_forever()


if __name__ == "__main__":
    main()
