"""What README and guides show is what happens: console blocks are replayed, links and tables held."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.conftest import REPOSITORY
from e2e_tools import profile
from weights.hello import hello

from lmctl.all_commands import COMMANDS
from lmctl.code_docs import EXITS

README = (REPOSITORY / "README.md").read_text()
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/*/*.md")])
# what takes long is told of meanwhile
PROGRESS = re.compile(r"^\S+: (download|hash|place|wait|waiting|listens|done)\b.*\n", re.MULTILINE)
SIZE = re.compile(r"\d+(\.\d)? ([KMGT]i)?B")


Step = tuple[str, str]  # a command, and what it shows


def steps(page: str) -> Iterator[Step]:
    """Yield the steps of all console blocks of a page."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


def pattern(line: str) -> str:
    """Return what a line must match: sizes, processes, commits, padding and what … stands for may differ."""
    if "supervisord pid" in line:
        line = line.partition(" pid ")[0] + " pid …"
    if "http://127.0.0.1:" in line and line.rstrip().endswith("none"):  # a row of status
        line = re.sub(r"(?<= )\d+s?(?= )", "…", line)
    line = re.sub(r"\d{4}(-\d\d){2} \d\d(:\d\d){2}|\d+s(?= \(\d+x\))", "…", line)  # when, and since when
    line = re.sub(r"\b[0-9a-f]{12}\b", "…", SIZE.sub("…", line))
    words = [re.escape(word).replace("…", ".*") for word in line.split()]
    return r"\s+".join(words)


def same(shown: str, said: str) -> bool:
    lines, spoken = ([line for line in text.splitlines() if line] for text in (shown, said))
    pairs = zip(lines, spoken, strict=False)
    return len(lines) == len(spoken) and all(re.fullmatch(pattern(a), " ".join(b.split())) for a, b in pairs)


@pytest.fixture
def replay(request, machine):
    """Run every command of a page in the machine's folder; `ports` maps the page's to free ones.

    What differs fails, or with `--snapshot-update` is written into the page.
    """

    shared = {"8080": machine.gateway()}  # who follows the page has the gateway in front
    shared["28000"] = int(machine.environ["LMCTL_GATEWAY__ENGINE_PORTS"].strip('"').partition("-")[0])

    def run(name: str, ports: dict[str, int]) -> None:
        ports = {**ports, **shared}
        path = REPOSITORY / name
        page = path.read_text()
        for command, shown in steps(page):
            said = _said(command, machine, ports)
            if request.config.getoption("update_snapshots") and not same(shown, said):
                page = page.replace(f"$ {command}\n{shown}", f"$ {command}\n{said}", 1)
                path.write_text(page)
            else:
                assert same(shown, said), f"$ {command}\n{said}\n{name} shows:\n{shown}"

    return run


def _said(command: str, machine, ports: dict[str, int]) -> str:
    for port, free in ports.items():
        command = command.replace(port, str(free))
    how = {"cwd": machine.folder, "env": machine.env(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    said = subprocess.run(command, shell=True, text=True, **how).stdout
    for port, free in ports.items():
        said = said.replace(str(free), port)
    return PROGRESS.sub("", said).replace(str(machine.folder), "~/models").replace(str(machine.home), "~")


def test_the_readme_shows_what_the_quickstart_does(replay, example, on_path):
    replay("README.md", {"8095": example("quickstart")["hello"]})


def test_the_guide_to_the_second_day_shows_what_happens(replay, example, on_path):
    replay("docs/day-two.md", {"8095": example("quickstart")["hello"]})


def test_the_guide_to_a_hub_model_shows_what_happens(replay, hub, on_path, port):
    hub.add("Qwen/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q8_0.gguf": hello("I am small.")})
    replay("docs/getting-started.md", {"8081": port()})


def test_the_guide_to_looking_after_it_shows_what_happens(replay, hub, machine, on_path, port):
    name, free = "Qwen/Qwen3-0.6B-GGUF", port()
    hub.add(name, {"Qwen3-0.6B-Q8_0.gguf": hello("I am small.")})
    machine.declare(profile("small", model=name, quant="Q8_0", port=free), "mine")
    machine.run("apply")
    hub.add(name, {"Qwen3-0.6B-Q8_0.gguf": hello("I am small, and a little newer.")})
    replay("docs/looking-after.md", {"8081": free})


def test_the_pages_that_are_replayed_are_all_that_show_a_console():
    shown = {path.name for path in PAGES if "```console" in path.read_text()}
    assert shown == {"README.md", "day-two.md", "getting-started.md", "looking-after.md"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, part = target.partition("#")
        aim = path.parent / file if file else path
        assert aim.exists(), target
        titles = re.findall(r"^#+ (.+)$", aim.read_text(), re.MULTILINE) if part else []
        assert not part or part in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_that_pages_name_exist(path: Path):
    named = set(re.findall(r"\blmctl (?:-C \S+ |--\w+ )*([a-z]{3,})\b", path.read_text()))
    assert named & COMMANDS.keys() == {word for word in named if word in COMMANDS}
    in_code = {found for code in re.findall(r"`lmctl ([a-z]+)", path.read_text()) for found in [code]}
    assert in_code <= COMMANDS.keys()


def test_the_readme_names_every_command_and_every_exit_code():
    table = README.partition("## Commands")[2].partition("## What is written where")[0]
    assert set(re.findall(r"`(?:lmctl )?([a-z]+)`", table.partition("All of them know")[0])) == COMMANDS.keys()
    rows = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    assert {int(number) for row in rows for number in row.split(", ")} == EXITS.keys()


def test_the_checks_run_the_readme_s_test_command():
    assert "\nsh tests/run\n" in README
    assert re.search(r"^sh tests/run\b", (REPOSITORY / ".ci/run").read_text(), re.MULTILINE)


def test_declarations_that_pages_show_are_valid(machine, on_path):
    for path in PAGES:
        for block in re.findall(r"^```toml\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
            if "version" in block:
                (machine.folder / "localmodels.toml").write_text(block)
                machine.run("validate")
