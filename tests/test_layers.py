"""Imports point one way, imports inside functions and for type checkers included."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "lmctl"

# A module imports from rows above its own, and inside its own package. `resources.weights` alone stands for a module,
# `config` for a package with all that is in it; the longest name counts.
LAYERS = (
    ("record", "text", "secret", "classes"),
    ("errors", "code_docs", "front", "owner"),
    ("paths", "spec"),
    ("launch", "embedded", "redact"),
    (
        "belongings",
        "client_keys",
        "local_sockets",
        "mutex",
        "source",
        "logtail",
        "adhoc",
        "allowlist",
        "shards",
        "portable",
        "trust",
        "trace",
        "crash",
        "units",
    ),
    ("gguf", "safetensors", "fit"),
    ("backend",),
    ("backends",),
    ("all_backends",),
    ("config",),
    ("config_edit", "schema_models"),
    ("schema_accounts",),
    ("schema",),
    ("schema_docs",),
    ("lock_reader",),
    ("lockfile",),
    ("database",),
    ("ledger_file",),
    ("ledger_reading",),
    ("premises",),
    ("host", "ledger"),
    ("generations",),
    ("snapshots",),
    ("selection",),
    ("resolving",),
    ("locking", "upstream"),
    ("plan", "safety"),
    ("past",),
    ("resource",),
    ("resources.artifact", "resources.content", "resources.weights"),
    ("addresses",),
    ("services",),
    ("desired",),
    ("memory", "neighbours", "capacity"),
    ("condition",),
    ("unsupervised",),
    ("obstacles",),
    ("serving",),
    ("resources.program",),
    ("all_resources", "meanwhile"),
    ("drift",),
    ("session",),
    ("census", "comparing"),
    ("leaving",),
    ("recording",),
    ("reconcile",),
    ("usage",),
    ("gateway", "watcher"),
    ("result",),
    ("logbook",),
    ("command",),
    ("progress", "asking"),
    ("acting",),
    ("doctor", "telling", "past_sessions"),
    ("all_commands",),  # names and help lines; it imports a command when that one runs
    ("arguments",),
    ("commands",),
    ("hosts",),
    ("compose",),
    ("dispatch",),
    ("cli",),
    ("__main__",),
)
ROWS = {name: number for number, row in enumerate(LAYERS) for name in row}
# The parts of the outside world know what they implement, and nothing of what is done with them.
HOSTS_MAY_USE = ROWS["host"]


def _name(path: Path) -> str:
    """Return a module's name without `lmctl.`; "" for the package itself."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of ours that `module` imports anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {_imported(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {_imported(alias.name, "") for alias in node.names}
    return frozenset(found - {None, ""})


def _imported(module: str, name: str) -> str | None:
    if module.partition(".")[0] != "lmctl":
        return None
    inner = f"{module}.{name}".removeprefix("lmctl").strip(".")
    return inner if inner in MODULES else module.removeprefix("lmctl").lstrip(".")


def _layer(module: str) -> str:
    """Return the entry of LAYERS that stands for `module`."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in ROWS), "")


HELD = [module for module in MODULES if module and MODULES[module].read_text().strip()]


@pytest.mark.parametrize("module", HELD)
def test_a_module_imports_only_from_layers_above_its_own(module):
    own = _layer(module)
    assert own, f"{module} has no layer: add it to LAYERS"
    wrong = {one for one in imports(module) if _layer(one) != own and ROWS[_layer(one)] >= ROWS[own]}
    assert not wrong


def test_no_module_imports_itself_by_way_of_others():
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module not in finished:
            for one in imports(module):
                visit(one, (*way, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_outside_world_is_put_together_in_one_place():
    users = {module for module in MODULES if any(one.startswith("hosts.") for one in imports(module))}
    assert {module for module in users if not module.startswith("hosts")} == {"compose"}


@pytest.mark.parametrize("module", [module for module in HELD if module.startswith("hosts.")])
def test_parts_of_the_outside_world_know_nothing_of_plans(module):
    assert not {one for one in imports(module) if _layer(one) != "hosts" and ROWS[_layer(one)] > HOSTS_MAY_USE}


@pytest.mark.parametrize("module", ["launch", "embedded"])
def test_what_supervisord_starts_brings_only_leaves(module):
    assert imports(module) <= {"errors", "paths", "record", "spec"}


PURE = ["backend", "plan", "safety", "memory", "desired", "fit.needs", "fit.llama", "fit.together"]
PURE += ["addresses", "services"]
PURE += [module for module in MODULES if module.startswith(("backends.", "drift."))]
PURE += [f"gateway.{name}" for name in ("bodies", "contents", "fields", "gatekeeper", "paths", "refused", "rules")]
PURE += [f"gateway.{name}" for name in ("ollama", "ollama_answers", "ollama_lines", "ollama_models")]
PURE += [f"gateway.{name}" for name in ("cloud_fields", "features", "router")]
PURE += [
    f"gateway.{name}" for name in ("decisions", "demand", "eviction", "scheduler", "served", "turned_away", "turns")
]
LOOKS = {"exists", "is_dir", "is_file", "is_symlink", "iterdir", "glob", "open", "read_bytes", "read_text", "readlink"}
LOOKS |= {"realpath", "resolve", "samefile", "stat", "lstat"}


@pytest.mark.parametrize("module", PURE)
def test_planning_is_pure(module):
    """What decides has no clock, network, process or disk to ask."""
    tree = ast.parse(MODULES[module].read_text())
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {node.attr for node in called if isinstance(node, ast.Attribute)}
    assert not LOOKS & (names | {node.id for node in called if isinstance(node, ast.Name)})
    assert "paths" not in imports(module)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & {"os", "time", "socket", "subprocess", "urllib", "sqlite3"}


def test_every_entry_stands_for_something_that_exists():
    packages = {module.rpartition(".")[0] for module in MODULES}
    assert ROWS.keys() <= MODULES.keys() | packages
