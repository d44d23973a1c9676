"""What is wrong on another machine is found on this one: every form that a profile takes is judged."""

from __future__ import annotations

import pytest
from declarations import LINUX, PRELUDE

from lmctl.errors import LmctlError
from lmctl.spec import Hardware

MAC = Hardware("darwin", "arm64", "mac", 32 << 30, accelerator="metal", gpus=(32 << 30,))
OTHERS = (LINUX, MAC, Hardware("linux", "arm64", "board", 4 << 30))

BASE = '[profiles.x]\nmodel = "o/m"\n[[profiles.x.when]]\n'
ON_A_MAC = BASE + 'os = "darwin"\n'
COMMAND = '[profiles.x]\nbackend = "command"\ncommand = ["serve"]\n[[profiles.x.when]]\nos = "darwin"\n'
MLX = ON_A_MAC + 'backend = "mlx"\nmodel = "o/mlx"\n'
REFUSED = {  # what is wrong is said in the last line
    "template-outside": (ON_A_MAC + 'chat_template = "../x.jinja"\n', "E-PATH"),
    "template-by-name": (MLX + 'chat_template = "chatml"\n', "E-REF"),
    "two-adapters": (MLX + 'lora = [{ path = "a" }, { path = "b" }]\n', "E-LIMIT"),
    "scaled-adapter": (MLX + 'lora = [{ path = "a", scale = 0.5 }]\n', "E-RANGE"),
    "managed-flag": (ON_A_MAC + 'extra_args = ["--port", "1"]\n', "E-FLAG"),
    "secret-flag": (ON_A_MAC + 'extra_args = ["--api-key", "x"]\n', "E-SECRET"),
    "variable-that-is-never-passed-on": (ON_A_MAC + 'env = { LD_PRELOAD = "/x" }\n', "E-ENV"),
    "no-such-machine-runs-it": (ON_A_MAC + 'arch = "x86_64"\nmodel = "o/mlx"\nbackend = "mlx"\n', "E-PLATFORM"),
    "no-mac-will-run-it": (ON_A_MAC + 'model = "o/m"\nbackend = "vllm"\n', "E-PLATFORM"),
    "command-without-its-model": (COMMAND + 'command = ["serve", "{model}"]\n', "E-REF"),
}


@pytest.mark.parametrize(("text", "code"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("machine", OTHERS, ids=lambda machine: f"{machine.os}-{machine.arch}")
def test_an_overlay_that_is_wrong_where_it_holds_is_refused_everywhere(place, loaded, machine, text, code):
    place.machine('[allow]\nteam = ["command"]\n')
    with pytest.raises(LmctlError) as caught:
        loaded(text, hardware=machine)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place.line) == (code, (PRELUDE + text).count("\n"))


RIGHT = {
    "some-of-its-machines-run-it": MLX,
    "memory-of-any-machine": BASE + 'memory = ">= 48 GiB"\nbackend = "mlx"\nmodel = "o/mlx"\n',
    "flags-that-its-owner-may-allow": ON_A_MAC + 'extra_args = ["--verbose-prompt"]\n',
    "variables-that-its-owner-may-allow": ON_A_MAC + 'env = { MY_OWN = "1" }\n',
    "a-program-that-its-owner-may-allow": ON_A_MAC + 'backend = "command"\ncommand = ["serve"]\n',
    "code-that-its-owner-may-allow": MLX + 'extra_args = ["--trust-remote-code"]\n',
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_an_overlay_that_could_be_right_where_it_holds_is_no_error_elsewhere(loaded, text):
    assert loaded(text, hardware=LINUX).profiles


def test_what_this_machine_s_owner_did_not_allow_is_refused_where_it_holds(loaded):
    with pytest.raises(LmctlError) as caught:
        loaded(RIGHT["flags-that-its-owner-may-allow"], hardware=MAC)
    assert caught.value.code == "E-UNSAFE"


def test_an_overlay_that_no_machine_meets_is_not_judged(loaded):
    never = BASE + 'os = "linux"\naccelerator = "metal"\nchat_template = "../x.jinja"\n'
    assert loaded(never).profiles


def test_one_mistake_of_many_forms_is_told_once(loaded):
    blocks = "".join(f'[[profiles.x.when]]\nmemory = ">= {n} GiB"\nctx = {n * 1024}\n' for n in (1, 2, 4, 8, 16, 32))
    with pytest.raises(LmctlError) as caught:
        loaded('[profiles.x]\nmodel = "o/m"\nextra_args = ["--port", "1"]\n' + blocks)
    assert [problem.code for problem in caught.value.problems] == ["E-FLAG"]
