"""2 GiB from a loopback Hub with sha256, beside curl, one core's hashlib and `hf download`; deep verify beside hashlib.

A download of ours is on the disk when it is called done, curl's is in memory: what the disk alone costs is told by a
curl whose file is flushed too, and by `--dir` on a tmpfs. Run `python bench/download.py [--mib 2048] [--rounds 7]`:
rounds are interleaved in one run, medians are printed with their ratios. nginx serves the bytes when it is installed,
else tests/fakes/hub.py. The machine should be idle.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HERE = Path(__file__).resolve().parent

OURS = """
import json, resource, sys
from pathlib import Path
from lmctl.host import Fetch
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.transfer import HubTransfer
from lmctl.spec import LockedFile
url, commit, size, sha256, folder = sys.argv[1:]
fetch = Fetch("bench/model", "main", commit, LockedFile("model.gguf", "weights", int(size), sha256))
transfer = HubTransfer(Endpoint(url), Path(folder) / "hub", Path(folder) / "lmctl")
transfer.room([fetch])
(fetched,) = transfer.fetch([fetch], lambda progress: None, lambda fetched: None)
sys.exit(str(fetched.error) if fetched.error else 0)
"""

VERIFY = """
import sys
from pathlib import Path
from lmctl.hosts.store import DiskStore
from lmctl.spec import Machine
store = DiskStore(Path("/nowhere"), Path("/nowhere"), Path("/nowhere"), {}, Machine())
print(store.hashes([Path(path) for path in sys.argv[1:]], lambda progress: None))
"""

HASHLIB = """
import hashlib, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        print(hashlib.file_digest(file, "sha256").hexdigest())
"""

FLUSHED = """
import os, subprocess, sys
subprocess.run(["curl", "-sf", "-o", *sys.argv[1:]], check=True)
with open(sys.argv[1], "rb") as file:
    os.fsync(file.fileno())
"""


def made(folder: Path, size: int) -> Path:
    """Write a file of `size` random bytes."""
    path = folder / "bench" / "model" / "model.gguf"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return path


@contextlib.contextmanager
def nginx(folder: Path, path: Path, sha256: str) -> Iterator[str]:
    """Serve `path` as the Hub does, by nginx on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    info = {"id": "bench/model", "sha": COMMIT, "siblings": [{"rfilename": "model.gguf"}]}
    lfs = {"oid": sha256, "size": path.stat().st_size, "pointerSize": 130}
    tree = [{"type": "file", "oid": COMMIT, "size": path.stat().st_size, "path": "model.gguf", "lfs": lfs}]
    configuration = f"""
daemon off; error_log stderr crit; pid {folder}/nginx.pid; worker_processes 1; events {{ }}
http {{
  access_log off; sendfile on; tcp_nopush on; etag off; default_type application/json; keepalive_requests 100000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{port};
    location = /api/agent-harnesses {{ return 200 '{{"standardEnvVars": []}}'; }}
    location /api/models/bench/model/tree/ {{ return 200 '{json.dumps(tree)}'; }}
    location /api/models/bench/model {{ return 200 '{json.dumps(info)}'; }}
    location /bench/model/resolve/ {{
      add_header X-Repo-Commit {COMMIT}; add_header ETag '"{sha256}"'; add_header X-Linked-Etag '"{sha256}"';
      add_header X-Linked-Size {path.stat().st_size}; types {{ }} default_type application/octet-stream;
      alias {path.parent}/; rewrite ^/bench/model/resolve/[^/]+/(.*)$ /$1 break; root {path.parent};
    }}
  }}
}}
"""
    configuration = configuration.replace(f"alias {path.parent}/; ", "")
    (folder / "nginx.conf").write_text(configuration)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def fake(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve `folder` by the tests' Hub; yields its address and the commit."""
    command = [sys.executable, str(HERE.parent / "tests" / "fakes" / "hub.py"), "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield url, ""
        process.terminate()


def timed(command: list[str], environ: dict[str, str] | None = None) -> float:
    """Return the seconds that `command` takes; it must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **(environ or {})}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stdout}{done.stderr}")
    return time.perf_counter() - start


def peak(command: list[str]) -> int:
    """Return the peak resident bytes of `command`, measured by a child of its own."""
    code = "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r.returncode)"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def compared(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each contender, the rounds interleaved, each in another order.

    What ran before counts: a virtual machine gives memory that was freed a while ago back, and its pages are dear anew.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for count in range(rounds):
        for name in random.Random(count).sample([*contenders], len(contenders)):
            seconds[name].append(contenders[name]())
    return {name: statistics.median(held) for name, held in seconds.items()}


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, help="where to work; needs three times the size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as held, contextlib.ExitStack() as stack:
        work = Path(held)
        work.chmod(0o755)  # nginx serves as another user when root starts it
        path = made(work / "served", options.mib * MIB)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        commit = COMMIT
        if shutil.which("nginx"):
            url = stack.enter_context(nginx(work, path, sha256))
        else:
            url, _ = stack.enter_context(fake(work / "served"))
            commit = "main"
        report(work, path, (url, commit, sha256), options.rounds)


def report(work: Path, path: Path, hub: tuple[str, str, str], rounds: int) -> None:
    """Measure and print."""
    url, commit, sha256 = hub
    size, target = path.stat().st_size, work / "target"
    address = f"{url}/bench/model/resolve/{commit}/model.gguf"
    ours = [sys.executable, "-c", OURS, url, commit, str(size), sha256, str(target)]
    hf = [str(Path(sys.executable).with_name("hf")), "download", "bench/model", "model.gguf"]
    hf_environ = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(target),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def fresh(command: list[str], environ: dict[str, str] | None = None) -> Callable[[], float]:
        def run() -> float:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            os.sync()
            return timed(command, environ)

        return run

    medians = compared(
        {
            "lmctl": fresh(ours),
            "curl, no check": fresh(["curl", "-sf", "-o", str(target / "model.gguf"), address]),
            "curl, no check, flushed": fresh([sys.executable, "-c", FLUSHED, str(target / "model.gguf"), address]),
            "hashlib, no download": lambda: timed([sys.executable, "-c", HASHLIB, str(path)]),
            "hf download, no check": fresh(hf, hf_environ),
        },
        rounds,
    )
    shutil.rmtree(target)
    target.mkdir()
    table(f"Download of {size // MIB} MiB", medians, "lmctl", size)
    for curl in ("curl, no check", "curl, no check, flushed"):
        slower = max(medians[curl], medians["hashlib, no download"])
        print(f"share of the slower of hashlib and {curl}: {slower / medians['lmctl']:.2f} (goal: 0.90)")
    print(f"times as fast as hf download: {medians['hf download, no check'] / medians['lmctl']:.2f} (goal: above 1)")
    print(f"peak resident memory: {peak(ours) / MIB:.0f} MiB (goal: under 143)\n")
    shutil.rmtree(target)
    parts = [work / f"part{index}" for index in range(os.cpu_count() or 1)]
    for part in parts:
        shutil.copyfile(path, part) if len(parts) < 3 else os.link(path, part)
    verify = compared(
        {
            "lmctl, one file": lambda: timed([sys.executable, "-c", VERIFY, str(path)]),
            "hashlib, one file": lambda: timed([sys.executable, "-c", HASHLIB, str(path)]),
            f"lmctl, {len(parts)} files": lambda: timed([sys.executable, "-c", VERIFY, *map(str, parts)]),
        },
        rounds,
    )
    table("Deep verify", verify, "lmctl, one file", size)
    print(f"share of hashlib: {verify['hashlib, one file'] / verify['lmctl, one file']:.2f} (goal: 0.95)")
    many = len(parts) * verify["hashlib, one file"] / verify[f"lmctl, {len(parts)} files"]
    print(f"cores that many files keep busy: {many:.2f} of {len(parts)}")


def table(title: str, medians: dict[str, float], ours: str, size: int) -> None:
    """Print medians with MB/s and the ratio to ours."""
    print(f"| {title} | seconds | MB/s | time, lmctl = 1 |\n| --- | --- | --- | --- |")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {size / seconds / 1e6:.0f} | {seconds / medians[ours]:.2f} |")


if __name__ == "__main__":
    assert resource.RUSAGE_CHILDREN == -1
    main()
