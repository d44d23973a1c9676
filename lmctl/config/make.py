"""Composed keys to the frozen records of `spec`: profiles, what they need on disk, what their engine is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmctl.all_backends import BACKENDS
from lmctl.config.compose import Composed
from lmctl.config.reach import NEITHER, holds, reach
from lmctl.config.values import byte_count, duration
from lmctl.errors import LmctlError, Place, Problem, escape
from lmctl.spec import Draft, Format, Lora, Profile, Role, Settings, Wanted

_PLAIN = ["ctx", "parallel", "gpu_layers", "cache_type_k", "cache_type_v", "batch", "ubatch", "load_mode", "cpu_moe"]
_PLAIN += ["embeddings", "rerank", "pooling", "dtype", "quantization", "tensor_parallel", "pipeline_parallel"]
_PLAIN += ["gpu_memory_utilization"]
_TEMPLATE_FILES = (".jinja", ".jinja2", ".j2", ".txt")

Finding = tuple[str, str, str]  # code, text and fix of what is wrong


@dataclass
class Maker:
    """Makes the records of one declaration; what it must refuse is collected in `problems`."""

    folder: Path  # of the declaration, real
    home: Path
    problems: dict[Problem, None] = field(default_factory=dict)
    leads: dict[str, dict[str, str]] = field(default_factory=dict)  # committed path -> its `reach`, which may change
    _found: dict[tuple[Path, str], tuple[Path, Finding | None]] = field(default_factory=dict)

    def refuse(self, composed: Composed, key: str, problem: Finding) -> None:
        """Note code, text and fix of what is wrong with `key`."""
        code, what, fix = problem
        self.problems[Problem(code, what, fix, place_of(composed, key))] = None

    def profile(self, name: str, composed: Composed) -> Profile:
        """Return the record of a profile whose backend has landed."""
        keys = composed.keys
        return Profile(
            name=name,
            backend=composed.backend,
            weights=self.weights(composed),
            settings=self.settings(composed),
            mmproj=self.mmproj(composed),
            lora=self.lora(composed),
            draft=self.draft(composed),
            port=keys.get("port"),
            start=keys.get("start", "always"),
            ttl=duration(keys.get("ttl", "15m")),
            fetch=keys.get("fetch", "apply"),
            protect=keys.get("protect", False),
            aliases=tuple(keys.get("aliases", ())),
            tasks=tuple(keys.get("tasks", ())),
            description=keys.get("description", ""),
            command=tuple(keys.get("command", ())),
            health=keys.get("health", "/health"),
            start_timeout=None if keys.get("start_timeout", "auto") == "auto" else duration(keys["start_timeout"]),
            stop_timeout=duration(keys.get("stop_timeout", "10s")),
            max_concurrency=keys.get("max_concurrency"),
            max_queue=keys.get("max_queue", 64),
            fallback=tuple(keys.get("fallback", ())),
            changed=keys,
        )

    def settings(self, composed: Composed) -> Settings:
        keys = composed.keys
        told: dict[str, Any] = {key: keys[key] for key in _PLAIN if key in keys}
        if keys.get("threads", "auto") != "auto":
            told["threads"] = keys["threads"]
        if keys.get("flash_attn", "auto") != "auto":
            told["flash_attn"] = keys["flash_attn"]
        if "cache_ram" in keys:
            told["cache_ram"] = byte_count(keys["cache_ram"])
        if "sampling" in keys:
            known = BACKENDS[composed.backend].SAMPLING
            told["sampling"] = {key: value for key, value in keys["sampling"].items() if key in known}
        for key in ("devices", "extra_args"):
            told[key] = tuple(keys.get(key, ()))
        told["env"] = keys.get("env", {})
        template = keys.get("chat_template")
        if template is not None and names_file(template):
            told["chat_template_file"] = self._local(composed, "chat_template", template)
        elif template is not None:
            told["chat_template"] = template
        return Settings(**told)

    def weights(self, composed: Composed) -> Wanted | None:
        keys = composed.keys
        if "path" in keys:
            return self._from_path(composed, "path", keys["path"], "weights")
        if "model" not in keys:
            return None
        return _from_hub(keys, keys.get("revision", "main"), BACKENDS[composed.backend].FORMAT, "weights")

    def mmproj(self, composed: Composed) -> Any:
        keys = composed.keys
        declared = keys.get("mmproj", "auto")
        if declared == "auto" or declared is False:
            return declared or None
        if "model" in keys:
            repo = {"model": keys["model"], "file": declared}
            return _from_hub(repo, keys.get("revision", "main"), "gguf", "mmproj")
        return self._from_path(composed, "mmproj", declared, "mmproj")

    def lora(self, composed: Composed) -> tuple[Lora, ...]:
        made = []
        for entry in composed.keys.get("lora", ()):
            wanted = self._side(composed, "lora", entry)
            if wanted:
                made.append(Lora(wanted, float(entry.get("scale", 1.0))))
        return tuple(made)

    def draft(self, composed: Composed) -> Draft | None:
        entry = composed.keys.get("draft", {})
        wanted = self._side(composed, "draft", entry) if "draft" in composed.keys else None
        if not wanted:
            return None
        most, least = entry.get("max", 16), entry.get("min", 0)
        if least > most:
            self.refuse(composed, "draft", ("E-RANGE", f"draft: min {least} is above max {most}", "lower `min`"))
        return Draft(wanted, most, least)

    def _side(self, composed: Composed, role: Role, entry: Mapping[str, Any]) -> Wanted | None:
        """Return the artifact of an adapter or a draft model."""
        if ("path" in entry) == ("model" in entry):
            self.refuse(composed, role, ("E-CONFLICT", f"{role}: needs exactly one of path, model", "keep one"))
            return None
        kind = BACKENDS[composed.backend].FORMAT
        if "path" in entry:
            return self._from_path(composed, role, entry["path"], role)
        if role == "lora" and kind == "gguf" and "file" not in entry:
            self.refuse(composed, role, ("E-KEY", "lora: `model` needs `file`", "name the adapter's file"))
        if "quant" in entry and "file" in entry:
            self.refuse(composed, role, ("E-CONFLICT", f"{role}: quant and file exclude each other", "keep one"))
        return _from_hub(entry, "main", kind, role)

    def _from_path(self, composed: Composed, key: str, text: str, role: Role) -> Wanted:
        path = self._local(composed, key, text)
        # what only this machine asks for may lie anywhere, and reads better by its own name
        shown = os.path.relpath(path, self.folder) if holds(str(self.folder), str(path)) else str(path)
        return Wanted(f"path={shown}", None, None, "", "local", role, path)

    def _local(self, composed: Composed, key: str, text: str) -> Path:
        """Return the absolute path of `text`; a committed file may only name what lies in its declaration's folder.

        Links are followed: what a repository links to outside of it is as foreign as what it names there.
        """
        layer = composed.origin[key].layer
        if not layer.committed:
            text = str(self.home) + text[1:] if text == "~" or text.startswith("~/") else text
            return Path(os.path.normpath(layer.folder / text))
        asked = (layer.folder, text)  # by every form of a profile
        if asked not in self._found:
            path = os.path.normpath(layer.folder / text)
            self._found[asked] = Path(path), self._judged(path, text, layer.folder)
        found, wrong = self._found[asked]
        if wrong is not None:
            code, what, fix = wrong
            self.refuse(composed, key, (code, f"{key}: {what}", fix))
        return found

    def _judged(self, path: str, text: str, folder: Path) -> Finding | None:
        """Return what is wrong with `text` in a committed file of `folder`, None when what it reaches may be opened."""
        root, elsewhere = str(self.folder), "declare it in localmodels.local.toml"
        named = str(self.home) + text[1:] if text.startswith("~/") else path
        if text.startswith(("/", "~/")) and holds(root, named):
            relative = os.path.relpath(named, folder)
            return "E-PATH", f"'{escape(text, 80)}' must be relative", f'write "{escape(relative, 4096)}"'
        if text.startswith(("/", "~")) or not holds(root, path):
            return "E-PATH", f"'{escape(text, 80)}' leads out of the declaration's folder", elsewhere
        try:
            leads = self.leads[path] = reach(path, root)
        except LmctlError as error:
            problem = error.problems[0]
            return problem.code, problem.what, problem.fix or ""
        for name, real in sorted(leads.items()):
            shown = escape(text if name == path else os.path.relpath(name, root), 80)
            if real == NEITHER:
                return "E-FILE", f"'{shown}' is neither a file nor a folder", "remove it, or name another path"
            if not holds(root, real):
                return "E-PATH", f"'{shown}' is a link that leads out of the declaration's folder", elsewhere
        return None


def names_file(template: str) -> bool:
    """Return whether a chat template is a file, not a name that the engine knows."""
    return "/" in template or template.endswith(_TEMPLATE_FILES)


def _from_hub(keys: Mapping[str, Any], revision: str, kind: Format, role: Role) -> Wanted:
    selection = f"file={keys['file']}" if "file" in keys else keys.get("quant", "mlx" if kind == "mlx" else "")
    return Wanted(f"{keys['model']}@{revision}:{selection}", keys["model"], revision, selection, kind, role)


def place_of(composed: Composed, key: str) -> Place | None:
    """Return where `key` of a profile was declared, else where anything of it was."""
    found = composed.origin.get(key) or next(iter(composed.origin.values()), None)
    if found is None:
        return None
    return found.layer.place((*found.path, key) if key in composed.origin else found.path)
