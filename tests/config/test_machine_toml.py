"""machine.toml: what it says, where a token may go, and what it alone allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from declarations import PRELUDE

from lmctl.errors import LmctlError


def test_machine_toml(place):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.machine("""
bind = "10.0.0.7"
[hub]
endpoint = "http://127.0.0.1:9000"
token_file = "~/token"
cache = "hub"
[engines."llama.cpp"]
binary = "/opt/llama-server"
[engines.mlx]
binary = "mlx_lm.server"
[allow]
team = ["flags", "env"]
[weights]
roots = ["/models", "~/w"]
[memory]
reserve = "1 GiB"
gpu = "24 GiB"
[prune]
max_bytes = "1 TB"
[download]
connections = 8
files = 2
rate = "10 MB"
[logs]
max_bytes = 1000
""")
    machine = place.load().machine
    assert (machine.bind, machine.endpoint, machine.token_file) == (
        "10.0.0.7",
        "http://127.0.0.1:9000",
        place.home / "token",
    )
    assert machine.hub_cache == place.folders.config / "hub"
    assert machine.binaries == {"llama.cpp": "/opt/llama-server", "mlx": "mlx_lm.server"}
    assert machine.allow == {"team": ("flags", "env")}
    assert machine.weight_roots == (Path("/models"), place.home / "w")
    assert (machine.memory_reserve, machine.memory_gpu, machine.prune_max_bytes) == (1 << 30, 24 << 30, 10**12)
    assert (machine.connections, machine.files, machine.rate, machine.log_max_bytes) == (8, 2, 10**7, 1000)


@pytest.mark.parametrize(
    "endpoint", ["http://hub.example", "ftp://x", "https://u:secret@x", "x", "http://localhost:1", ""]
)
def test_endpoints_that_a_token_must_not_reach(place, endpoint):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.machine(f'[hub]\nendpoint = "{endpoint}"\n')
    with pytest.raises(LmctlError, match=r"machine.toml:2:1: hub.endpoint") as caught:
        place.load()
    assert caught.value.code == "E-RANGE"
    assert "secret" not in str(caught.value)


COMMAND = '[profiles.x]\nbackend = "command"\ncommand = ["serve", "--port", "{port}"]\n'


@pytest.mark.parametrize("where", ["localmodels.toml", "localmodels.local.toml"])
def test_I79_a_program_needs_trust(place, where):
    place.write("localmodels.toml", PRELUDE + '[profiles.y]\nmodel = "o/m"\n')
    place.write(where, (PRELUDE if where == "localmodels.toml" else "") + COMMAND)
    with pytest.raises(LmctlError, match=f"run `lmctl trust {place.folder}/localmodels.toml`, or") as caught:
        place.load()
    assert (caught.value.code, caught.value.exit_code) == ("E-TRUST", 4)
    place.machine('[allow]\nother = ["command"]\n')
    with pytest.raises(LmctlError):
        place.load()
    place.machine('[allow]\nteam = ["command"]\n')
    program = next(profile for profile in place.load().profiles if profile.backend == "command")
    assert (program.command, program.weights, program.health) == (("serve", "--port", "{port}"), None, "/health")


def test_flags_and_variables_that_the_machine_allows(loaded, place):
    text = '[profiles.x]\nmodel = "o/m"\nextra_args = ["--slot-save-path", "/tmp"]\nenv = { MY_OWN = "1" }\n'
    with pytest.raises(LmctlError) as caught:
        loaded(text)
    assert {problem.code for problem in caught.value.problems} >= {"E-UNSAFE", "E-ENV"}
    place.machine('[allow]\nteam = ["flags", "env"]\n')
    assert loaded(text).profiles[0].settings.env == {"MY_OWN": "1"}
