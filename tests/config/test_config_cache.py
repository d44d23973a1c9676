"""The kept Declaration: the same as a new one, and never used when anything that it was made of changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from declarations import LINUX, PRELUDE

from lmctl.config import cache, codec
from lmctl.config.find import Request
from lmctl.errors import LmctlError
from lmctl.paths import Folders
from lmctl.record import replace

FULL = """
include = ["p/*.toml"]
[profiles.x]
model = "o/m"
file = "a/b.gguf"
mmproj = "mm.gguf"
lora = [{ path = "l.gguf", scale = 0.5 }]
draft = { model = "o/d", max = 4 }
sampling = { seed = 1, temperature = 0.5 }
devices = ["CUDA0"]
chat_template = "t/x.jinja"
port = 9001
start = "manual"
aliases = ["gpt"]
extra_args = ["--swa-full"]
env = { CUDA_VISIBLE_DEVICES = "0" }
description = "one of all keys"
[profiles.y]
model = "o/y"
port = 9001
ttl = "5m"
fallback = ["big"]
max_queue = 3
[profiles.y.sampling]
[gateway]
load_timeout = "1m"
origins = ["https://a.example"]
[watch]
enabled = true
[cloud.big]
base_url = "https://cloud.example/v1"
model = "large"
key_file = "keys/big"
price_in = 2.5
[router]
cloud = "big"
tasks = { translate = "y" }
tools = "cloud"
[usage]
keep = "10d"
compare = ["gpt"]
"""


@pytest.fixture
def full(place):
    place.write("localmodels.toml", PRELUDE + FULL)
    place.write("p/z.toml", 'path = "../z.gguf"\nmmproj = "mm.gguf"\n')
    place.write("localmodels.local.toml", '[profiles.l]\npath = "/l.gguf"\n')
    place.machine(
        '[allow]\nteam = ["flags", "env", "cloud"]\n[weights]\nroots = ["/m"]\n[hub]\ntoken_file = "/t"\ncache = "/c"\n'
    )
    return place


def entry(place):
    (found,) = (place.folders.cache / "config").iterdir()
    return found


def test_what_is_kept_equals_what_was_made(full):
    made = full.load()
    said = replace(made, sources={})
    assert codec.declaration(json.loads(json.dumps(codec.encode(said)))) == said
    before = entry(full).stat().st_mtime_ns
    assert full.load() == made
    assert entry(full).stat().st_mtime_ns == before, "the second time nothing is written"
    assert entry(full).stat().st_mode & 0o777 == 0o600


def test_the_bytes_that_were_read_are_at_hand_those_of_the_declarations_folder(full):
    texts = {
        name: (full.folder / name).read_bytes() for name in ("localmodels.toml", "p/z.toml", "localmodels.local.toml")
    }
    assert full.load().sources == full.load().sources == texts
    assert "sources" not in json.loads(entry(full).read_text())["declaration"]


def test_a_declaration_of_an_earlier_time_asks_the_disk_for_none_of_its_files(full):
    now = full.load()
    include = PRELUDE + FULL.replace('"p/*.toml"', '"p/q.toml"')
    earlier = {"localmodels.toml": include.encode(), "p/q.toml": b'model = "o/q"\n'}
    found = full.load(earlier=earlier)
    assert {profile.name for profile in now.profiles} == {"x", "y", "z", "l"}
    assert {profile.name for profile in found.profiles} == {"x", "y", "q"}
    assert (found.sources, found.machine) == (earlier, now.machine)
    earlier |= {"localmodels.local.toml": b'[profiles.m]\npath = "/m.gguf"\n'}
    for name in ("localmodels.local.toml", "localmodels.toml"):
        (full.folder / name).unlink()
    found = full.load(earlier=earlier, file=full.folder / "localmodels.toml")
    assert {profile.name for profile in found.profiles} == {"x", "y", "q", "m"}
    with pytest.raises(LmctlError, match="does not exist"):
        full.load(file=full.folder / "localmodels.toml")  # nothing of it was kept


CHANGES = {
    "declaration": lambda place: place.write("localmodels.toml", PRELUDE + FULL.replace("9001", "9002")),
    "comment": lambda place: place.write("localmodels.toml", PRELUDE + FULL + "# so\n"),
    "profile": lambda place: place.write("p/z.toml", 'path = "../q.gguf"\n'),
    "new-profile": lambda place: place.write("p/new.toml", 'path = "../q.gguf"\n'),
    "profile-gone": lambda place: (place.folder / "p/z.toml").unlink(),
    "local": lambda place: place.write("localmodels.local.toml", ""),
    "local-gone": lambda place: (place.folder / "localmodels.local.toml").unlink(),
    "machine": lambda place: place.machine('bind = "10.0.0.1"\n[allow]\nteam = ["flags", "env"]\n'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_changed_input_is_read_anew(full, change):
    before = full.load()
    change(full)
    after = full.load()
    assert after != before
    assert full.load() == after


def test_a_local_file_that_appears_is_read(place):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.load()
    place.write("localmodels.local.toml", "[profiles.x]\nctx = 512\n")
    assert place.load().profiles[0].settings.ctx == 512


def test_other_machine_environment_and_sets_are_other_entries(full):
    assert full.load().profiles[0].settings.ctx is None
    assert full.load("profiles.x.ctx=512").profiles[0].settings.ctx == 512
    assert full.load(environ={"LMCTL_DEFAULTS__CTX": "600"}).profiles[0].settings.ctx == 600
    other = full.load(hardware=replace(LINUX, host="other"))
    assert other.hash != full.load().hash


TRUSTED = '[profiles.own]\nbackend = "command"\ncommand = ["serve", "{port}"]\n'


def test_trust_ends_with_the_configuration_folder_that_gave_it(place, tmp_path):
    place.write("localmodels.toml", PRELUDE + TRUSTED)
    place.machine('[allow]\nteam = ["command"]\n')
    assert place.load().profiles
    place.folders = replace(place.folders, config=tmp_path / "elsewhere")
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert caught.value.code == "E-TRUST"


def test_the_home_that_tilde_means_belongs_to_what_is_kept(place, tmp_path):
    place.write("localmodels.toml", PRELUDE)
    place.write("localmodels.local.toml", '[profiles.l]\npath = "~/l.gguf"\n')
    for home in (tmp_path / "a", tmp_path / "b"):
        place.folders = replace(place.folders, home=home)
        assert place.load().profiles[0].weights.path == home / "l.gguf"


def test_what_was_refused_is_never_kept(place):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.load()
    kept = entry(place).read_bytes()
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\nctx = 1\n')
    for _ in range(2):
        with pytest.raises(LmctlError):
            place.load()
    assert entry(place).read_bytes() == kept


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "not-json": lambda path: path.write_bytes(b"\xff\x00"),
    "deep": lambda path: path.write_bytes(b"[" * 200_000),
    "other-shape": lambda path: path.write_text("[]"),
    "no-declaration": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "declaration": {}})),
    "writable-by-all": lambda path: (path.write_text(forged(path)), path.chmod(0o666)),
    "folder-writable-by-all": lambda path: (path.write_text(forged(path)), path.parent.chmod(0o777)),
    "link": lambda path: path.rename(path.with_suffix(".x")) and path.symlink_to(path.with_suffix(".x")),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
}


def forged(path):
    return path.read_text().replace('"o/m"', '"o/evil"').replace("o/m@", "o/evil@")


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_kept_file_that_cannot_be_trusted_is_ignored(full, damage):
    made = full.load()
    damage(entry(full))
    assert full.load() == made


@pytest.mark.needs("uid")
def test_a_kept_file_of_someone_else_is_ignored(full):
    made = full.load()
    entry(full).write_text(forged(entry(full)))
    os.chown(entry(full), 65534, 65534)
    assert full.load() == made


def test_a_cache_that_cannot_be_written_is_no_failure(full):
    full.folders.cache.parent.mkdir(parents=True, exist_ok=True)
    full.folders.cache.write_text("a file is in the way")
    assert full.load() == full.load()


def test_the_key_shows_no_value(place):
    key = cache.key(
        place.folder, Request(place.folder, sets=("a=secret",)), place.folders, {"LMCTL_A__B": "secret"}, LINUX
    )
    assert len(key) == 64


WARM = """
import sys
from pathlib import Path
from lmctl.config.find import Request
from lmctl.config.loading import load
from lmctl.paths import Folders
from lmctl.spec import Hardware
hardware = Hardware("linux", "x86_64", "box", 16 << 30)
declaration = load(Request(Path(sys.argv[1])), Folders.of({}, Path(sys.argv[2])), {}, hardware)
print(declaration.name, *sorted({"pydantic", "tomllib", "tomlkit", "lmctl.all_backends"} & set(sys.modules)))
"""


def test_the_second_time_neither_pydantic_nor_tomllib_is_imported(full):
    full.load()
    argv = [sys.executable, "-c", WARM, str(full.folder), str(full.home)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "team\n"


def test_the_home_decides_where_it_is_kept(full, tmp_path):
    full.load()
    assert cache.entry(Folders.of({}, tmp_path), full.folder).parent == tmp_path / ".cache/lmctl/config"


SECRET = "sk-" + "A" * 40


@pytest.mark.parametrize(
    "keys",
    [
        f'backend = "command"\ncommand = ["x", "{SECRET}"]\n',
        'backend = "command"\ncommand = ["x", "--api-key", "swordfish"]\n',
        f'model = "o/m"\ndescription = "{SECRET}"\n',
    ],
    ids=["word", "value-of-a-flag", "description"],
)
def test_a_declaration_that_holds_a_secret_is_not_kept(place, keys):
    place.machine('[allow]\nteam = ["command"]\n')
    place.write("localmodels.toml", f"{PRELUDE}[profiles.x]\n{keys}")
    assert place.load() == place.load()
    assert not [path for path in place.folders.cache.rglob("*") if path.is_file()]
