"""Two hundred profiles under one supervisord: what each costs in time and memory, and whether twice as many cost twice.

    python bench/scale.py [--rounds 5] [--sizes 25,50,100,200]

Every round begins with nothing for each number of profiles in turn: a home of its own, weights from a Hub on loopback,
a stand-in engine that does as little as one can. Medians are printed, of wall-clock time and of lmctl's own processor
time, which says more where others use the machine. Beside lmctl, supervisord alone starts the same programs from the
same files. What was started is ended and removed afterwards, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import math
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
SIZES, DECLARED, MIB = (25, 50, 100, 200), 10_000, 1 << 20
IDLE = 8.0  # seconds over which idle processes are watched

# A server that answers as llama-server does, holds its weights and imports nothing: its start must not hide lmctl's.
ENGINE = """#!{python} -IS
import sys
import _socket
words = sys.argv[1:]
if words in (["--version"], ["--help"]):
    print("version: 1 (0)" if words == ["--version"] else {flags!r})
    sys.exit()
value = dict(zip(words, words[1:]))
alias = value["--alias"].encode()
model = open(value["--model"], "rb")
answers = {{b"/health": b'{{"status":"ok"}}', b"/v1/models": b'{{"data":[{{"id":"' + alias + b'"}}]}}'}}
server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
server.bind((value["--host"], int(value["--port"])))
server.listen(16)
while True:
    line = _socket.socket(fileno=server._accept()[0])
    asked = line.recv(65536).split()
    body = answers.get(asked[1] if len(asked) > 1 else b"", b"")
    line.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    line.close()
"""
FLAGS = """--api-key-file
--model --alias --host --port --offline --metrics --cors-origins --ctx-size --parallel --no-kv-unified
--threads --flash-attn --cache-type-k --cache-type-v --cache-ram --batch-size --ubatch-size --load-mode"""


def weights(number: int) -> bytes:
    """Return a GGUF header that differs from every other: the engine reads none, lmctl does."""
    values = {
        "general.architecture": "llama",
        "general.name": f"model {number}",
        "llama.block_count": 2,
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
    }
    parts = [b"GGUF", struct.pack("<IQQ", 3, 0, len(values))]
    for key, value in values.items():
        typed = struct.pack("<I", 8) + _text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        parts.append(_text(key) + typed)
    raw = b"".join(parts)
    return raw + bytes(-len(raw) % 32)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@contextlib.contextmanager
def hub(folder: Path, count: int) -> Iterator[str]:
    """Serve `count` repositories with a model each."""
    for number in range(count):
        path = folder / "bench" / f"m{number}" / "model.gguf"
        path.parent.mkdir(parents=True)
        path.write_bytes(weights(number))
    command = [sys.executable, str(REPOSITORY / "tests/fakes/hub.py"), "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def timed(folder: Path, environ: dict[str, str], *words: str) -> tuple[float, float, float]:
    """Run a command of lmctl, which must succeed; return its seconds, those of the processor and its peak memory."""
    command = [sys.executable, "-m", "lmctl", "-C", str(folder), *words]
    with (folder / "said").open("w+b") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=environ, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"lmctl {' '.join(words)} ended with {process.returncode}\n{said.read(4096).decode()}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return seconds, usage.ru_utime + usage.ru_stime, peak


def first_port(count: int) -> int:
    """Return the first of `count` free ports in a row: between `engine_ports` and those that the system gives out."""
    for first in range(29_000 + os.getpid() % 3_000, 32_700 - count):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise SystemExit("no row of ports is free")


class Home:
    """An empty home with the stand-in engine; a declaration of a number of profiles in it."""

    def __init__(self, folder: Path, url: str, count: int) -> None:
        self.folder, self.url, self.count = folder, url, count
        self.gateway = False  # the engines alone are measured
        self.figures: dict[str, float] = {}
        self.first = first_port(count)
        self.state = folder / ".local/state/lmctl/scale"
        engine = folder / "llama-server"
        engine.write_text(ENGINE.format(python=sys.executable, flags=FLAGS))
        engine.chmod(0o755)
        settings = folder / ".config/lmctl/machine.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'[engines."llama.cpp"]\nbinary = "{engine}"\n')

    @property
    def environ(self) -> dict[str, str]:
        usual = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HF_ENDPOINT": self.url}
        return usual if self.gateway else {**usual, "LMCTL_GATEWAY__ENABLED": "false"}

    def declare(self, numbers: range, ctx: int = 512) -> None:
        """Declare a profile for each number; the first has another context."""
        profiles = (
            f'[profiles.m{n}]\nmodel = "bench/m{n}"\nport = {self.first + n}\nctx = {ctx if n == 0 else 512}\n'
            for n in numbers
        )
        (self.folder / "localmodels.toml").write_text('version = 1\nname = "scale"\n' + "".join(profiles))

    def run(self, figure: str, *words: str) -> None:
        """Run a command of lmctl, which must succeed; keep its seconds, those of the processor and its peak memory."""
        found = timed(self.folder, self.environ, *words)
        self.figures[figure], self.figures[f"processor, {figure}"], self.figures[f"peak, {figure}"] = found

    def processes(self) -> dict[int, psutil.Process]:
        """Return all processes of this home, by pid."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.folder):
                    found[process.pid] = process
        return found

    def engines(self) -> dict[str, int]:
        """Return the pid of each engine by its model's name."""
        found = {}
        for pid, process in self.processes().items():
            words = process.cmdline()
            if "--alias" in words:
                found[words[words.index("--alias") + 1]] = pid
        return found

    def end(self) -> None:
        """End every process of this home, whatever became of the commands."""
        with contextlib.suppress(SystemExit):
            self.run("down", "down")
        for process in self.processes().values():
            with contextlib.suppress(psutil.Error):
                process.kill()


def alone(home: Home) -> dict[str, float]:
    """Return the seconds that supervisord takes until all programs of its files listen, and its idle share."""
    copy = home.folder / "alone"
    for folder in ("logs", "starts"):
        (copy / folder).mkdir(parents=True)
    for name in ("supervisord.conf", "launch"):
        shutil.copy2(home.state / name, copy / name)
    shutil.copytree(home.state / "programs", copy / "programs")
    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
    begin = time.perf_counter()
    subprocess.run(command, cwd=copy, env=home.environ, check=True, stdin=subprocess.DEVNULL)
    for number in range(home.count):
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", home.first + number)):
                break
            time.sleep(0.005)
    seconds = time.perf_counter() - begin
    daemon = psutil.Process(int((copy / "supervisord.pid").read_text()))
    share = shared([daemon])
    daemon.terminate()
    daemon.wait(60)
    shutil.rmtree(copy)
    return {"supervisord alone": seconds, "share of a core, supervisord alone": share}


def idle(home: Home) -> dict[str, float]:
    """Return what lmctl's own processes cost while nothing happens: bytes, and shares of one core."""
    engines = set(home.engines().values())
    own = [process for pid, process in home.processes().items() if pid not in engines]
    share = shared(own)
    memory = [process.memory_full_info() for process in own]
    return {
        "own processes": len(own),
        "resident": sum(each.rss for each in memory),
        "proportional": sum(getattr(each, "pss", each.rss) for each in memory),
        "share of a core": share,
    }


def shared(processes: list[psutil.Process]) -> float:
    """Return the share of one core that processes take while nothing happens."""
    begin, before = time.perf_counter(), sum(map(used, processes))
    time.sleep(IDLE)
    return (sum(map(used, processes)) - before) / (time.perf_counter() - begin)


def used(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process used; by the nanosecond where the kernel tells."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


def measured(home: Home) -> dict[str, float]:
    """Take one home through its life; return every figure."""
    home.declare(range(home.count))
    home.run("lock", "lock")
    home.run("apply from nothing", "apply")
    home.run("apply, nothing to do", "apply")
    home.figures |= idle(home)
    before = home.engines()
    home.declare(range(home.count), ctx=1024)
    home.run("apply of one edit", "apply")
    after = home.engines()
    if {name for name in before if before[name] != after.get(name)} != {"m0"} or len(after) != home.count:
        raise SystemExit("the edit restarted something else than the one profile")
    home.run("down", "down")
    home.figures |= alone(home)
    home.run("apply, weights there", "apply")
    home.declare(range(1), ctx=1024)
    home.run("apply --prune, all but one", "apply", "--prune")
    left = list((home.folder / ".cache/huggingface/hub").glob("models--*"))
    if len(home.engines()) != 1 or len(left) != 1:
        raise SystemExit("prune left something behind")
    home.figures["over supervisord alone"] = home.figures["apply, weights there"] / home.figures["supervisord alone"]
    return home.figures


def validated(folder: Path) -> dict[str, float]:
    """Return the seconds in which many declared profiles are judged, nothing being cached, and the processor's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text = "".join(f'[profiles.m{n}]\nmodel = "bench/m{n}"\nport = {30000 + n}\n' for n in range(DECLARED))
    (folder / "localmodels.toml").write_text('version = 1\nname = "many"\n' + text)
    seconds, processor, _ = timed(folder, {"HOME": str(folder), "PATH": os.environ["PATH"]}, "validate")
    return {"seconds": seconds, "processor": processor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES)
    parser.add_argument("--json", action="store_true", help="print every figure of every round as well")
    options = parser.parse_args()
    compileall.compile_dir(REPOSITORY / "lmctl", quiet=1)
    seen: dict[int, list[dict[str, float]]] = {size: [] for size in options.sizes}
    judged = []
    with tempfile.TemporaryDirectory(prefix="lm") as name, hub(Path(name) / "hub", max(options.sizes)) as url:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            judged.append(validated(Path(name) / "many"))
            for size in options.sizes:
                with tempfile.TemporaryDirectory(prefix="lm") as own:
                    home = Home(Path(own), url, size)
                    try:
                        seen[size].append(measured(home))
                        if options.json:
                            print(json.dumps({"profiles": size, **home.figures}), flush=True)
                    finally:
                        home.end()
    report({size: middle(rounds) for size, rounds in seen.items()}, middle(judged))


def middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(each[figure] for each in rounds) for figure in rounds[0]}


UNITS = {"peak": ("MiB", MIB, "KiB", 1024), "resident": ("MiB", MIB, "KiB", 1024), "share": ("%", 0.01, "%", 0.01)}
UNITS |= {"proportional": UNITS["resident"], "own": ("", 1, "", 1), "over": ("times", 1, "", 1)}


def report(found: dict[int, dict[str, float]], judged: dict[str, float]) -> None:
    """Print every figure by number of profiles with how it grows, then those that goals are about."""
    sizes = list(found)
    print(f"| figure | {' | '.join(map(str, sizes))} | each more | growth |\n| --- |{' ---: |' * (len(sizes) + 2)}")
    for figure in found[sizes[0]]:
        values = [found[size][figure] for size in sizes]
        unit, scale, small, fine = UNITS.get(figure.partition(" ")[0].strip(","), ("s", 1, "ms", 0.001))
        shown = " | ".join(f"{value / scale:.2f}" for value in values)
        each = (values[-1] - values[0]) / (sizes[-1] - sizes[0]) / fine
        print(f"| {figure}, {unit} | {shown} | {each:.3f} {small} | {growth(sizes, values):.2f} |")
    most = found[sizes[-1]]
    each = [growth(sizes, [found[n][name] for n in sizes]) for name in most if name.startswith("processor")]
    grown = max((one for one in each if not math.isnan(one)), default=math.nan)
    rows = (
        (f"apply of {sizes[-1]} profiles / supervisord alone", f"{most['over supervisord alone']:.2f}", "at most 1.5"),
        ("growth of lmctl's processor time, the most of all commands", f"{grown:.2f}", "at most 1.5: 1 is linear"),
        (f"validate of {DECLARED} profiles", f"{judged['seconds']:.2f} s", "under 5 s"),
        ("the same, of the processor", f"{judged['processor']:.2f} s", ""),
        ("lmctl's own processes beside the engines, resident", f"{most['resident'] / 1e6:.1f} MB", "under 40 MB"),
        ("the same, of one core", f"{most['share of a core'] * 100:.3f} %", "under 0.1 %"),
        ("supervisord alone", f"{most['share of a core, supervisord alone'] * 100:.3f} %", ""),
    )
    print("\n| figure | measured | goal |\n| --- | --- | --- |")
    for name, value, goal in rows:
        print(f"| {name} | {value} | {goal} |")


def growth(sizes: list[int], values: list[float]) -> float:
    """Return what one more costs between the last two sizes, by what it costs up to there.

    1 is linear; what is quadratic gives 2.4 for the usual sizes. What costs nearly the same for all has none (nan).
    """
    middle = len(sizes) - 2
    if middle < 1 or values[middle] < 1.2 * values[0]:
        return float("nan")
    upper = (values[-1] - values[middle]) / (sizes[-1] - sizes[middle])
    return upper / ((values[middle] - values[0]) / (sizes[middle] - sizes[0]))


if __name__ == "__main__":
    main()
