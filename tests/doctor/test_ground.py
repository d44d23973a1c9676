"""What a folder's file system lacks is a warning or a failure with the next step, whatever the kernel calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmctl.doctor import ground
from lmctl.doctor.finding import worst
from lmctl.premises import Ground
from lmctl.record import replace

GIB = 1 << 30
HUB, OWN = Path("/home/x/hub"), Path("/home/x/lmctl")


def good(path: Path = HUB) -> Ground:
    return Ground(path, path, folder=True, ours=True, mode=0o700, writable=True, device=1, free=9 * GIB, kind="ext4")


def states(findings) -> list[str]:
    return [found.state for found in findings]


def test_a_sound_folder_is_told_with_its_file_system_and_room():
    (found,) = ground.state(good())
    assert (found.state, found.what) == ("ok", "/home/x/hub (ext4, 9.0 GiB free)")
    assert worst([found]) == 0


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above():
    (found,) = ground.state(replace(good(), there=Path("/home/x")))
    assert found.state == "ok"
    assert found.what.endswith("not made yet")
    (found,) = ground.state(replace(good(), there=Path("/home/x"), writable=False))
    assert found.what == "/home/x/hub does not exist, and /home/x may not be written"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"writable": False}, "E-PERM", "may not be written"),
        ({"folder": False}, "E-PERM", "no folder that can be opened"),
        ({"options": frozenset(["ro", "nosuid"])}, "E-PERM", "read-only"),
        ({"options": frozenset(["rw", "noexec"])}, "E-IO", "forbids to execute"),
    ],
    ids=["F55-sealed", "F55-no-folder", "F55-read-only", "F55-noexec"],
)
def test_F55_what_the_state_folder_needs(changes, code, words):
    failed = [found for found in ground.state(replace(good(), **changes)) if found.state == "fail"]
    assert [found.code for found in failed] == [code]
    assert words in failed[0].what
    assert failed[0].fix
    assert worst(failed) == 8


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"])
def test_F55_a_network_file_system_is_a_warning(kind):
    assert states(ground.state(replace(good(), kind=kind))) == ["ok", "warn"]
    assert states(ground.weights(replace(good(), kind=kind), good(OWN))) == ["ok", "warn"]


@pytest.mark.parametrize(
    "changes",
    [{"writable": False}, {"options": frozenset(["ro"])}, {"folds_case": True}, {"free": 5}, {"ours": False}],
    ids=["F55-sealed", "F55-read-only", "F55-folds-case", "full", "F55-not-owned"],
)
def test_F55_weights_that_cannot_be_added_to_still_serve(changes):
    found = list(ground.weights(replace(good(), **changes), good(OWN)))
    assert "warn" in states(found) and worst(found) == 0
    assert all(one.fix for one in found if one.state == "warn")


def test_noexec_does_not_matter_to_weights():
    assert states(ground.weights(replace(good(), options=frozenset(["noexec"])), good(OWN))) == ["ok"]


def test_weights_and_partial_files_on_two_file_systems_fail():
    found = list(ground.weights(good(), replace(good(OWN), device=2)))
    assert [one.code for one in found if one.state == "fail"] == ["E-IO"]


def test_without_its_cache_lmctl_is_slow_and_nothing_else():
    assert states(ground.cache(replace(good(), writable=False))) == ["warn"]


def test_a_folder_of_machine_toml_that_others_may_write_is_a_warning():
    assert list(ground.private("machine.toml", good())) == []
    assert states(ground.private("machine.toml", replace(good(), mode=0o775))) == ["warn"]
