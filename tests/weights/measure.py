"""Load a model in the real llama.cpp server and print, as JSON, the MiB of each kind of buffer that its log names.

python measure.py FILE '{"n_ctx": 4096, "n_parallel": 1, "kv_unified": false}'
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

LINE = re.compile(r"(KV|RS|output) buffer size = +([\d.]+) MiB")


def load(path: str, settings: dict[str, object]) -> None:
    """Start the server and stop it; its log goes to stderr."""
    import xllamacpp  # in the process that is measured alone

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.warmup, params.fit_params, params.cache_ram_mib, params.verbosity = False, False, 0, 10
    for name, value in settings.items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    time.sleep(0.4)  # freeing it at once hangs
    del server


def buffers(path: str, settings: dict[str, object]) -> dict[str, float]:
    """Return MiB by kind, as a fresh process logs them."""
    command = [sys.executable, __file__, path, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = {"KV": 0.0, "RS": 0.0, "output": 0.0}
    for kind, size in LINE.findall(done.stderr + done.stdout):
        found[kind] += float(size)
    return found


if __name__ == "__main__":
    load(sys.argv[1], json.loads(sys.argv[2]))
