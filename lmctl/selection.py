"""Which files of a repository make up an artifact, and the role of each; pure, from names and sizes alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from lmctl.errors import LmctlError, escape
from lmctl.host import Listing, RemoteFile
from lmctl.lock_reader import stays_inside
from lmctl.portable import twins
from lmctl.record import record
from lmctl.shards import SHARD
from lmctl.spec import Role, Wanted

Chosen = tuple[RemoteFile, Role]

_LISTED = 5  # names shown in an error
_DEFAULT_TAGS = ("Q4_K_M", "Q8_0")  # llama.cpp's own order when no quant is asked for
_PROJECTOR_TAGS = ("F16", "BF16", "Q8_0")  # every engine reads F16; the others are what repositories hold beside it
_TAG = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q|TQ)\d[A-Z0-9_]*|BF16|FP?16|FP?32|MXFP4\w*|NVFP4)(?![A-Za-z0-9])", re.I
)
# drafts are told apart as llama.cpp does: in lower case, for models with "MTP-" in their own name exist
_DRAFTS = ("mtp-", "eagle3-", "dflash-", "dspark-")
_TREE: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("template", re.compile(r"chat_template.*\.(?:json|jinja)|[^/]+\.jinja")),
    ("tokenizer", re.compile(r"tokenizer.*\.(?:json|model|txt)|(?:special_tokens_map|added_tokens)\.json")),
    ("tokenizer", re.compile(r"(?:merges|vocab)[^/]*\.(?:txt|json)|[^/]+\.(?:tiktoken|model)")),
    ("config", re.compile(r"[^/]*config\.json|[^/]+\.safetensors\.index\.json")),
)
_PICKLE = re.compile(r".*\.(?:bin|pt|pth|pkl|pickle|ckpt)")


@record
class _Model:
    """One model of a repository: a file, or the shards of one, by number."""

    name: str  # the path of any of its files
    shards: dict[int, RemoteFile]
    total: int

    @property
    def stem(self) -> str:
        found = SHARD.fullmatch(self.name)
        return found["prefix"] if found else self.name.rpartition(".")[0]


def select(listing: Listing, wanted: Wanted) -> tuple[Chosen, ...]:
    """Return the files of `wanted` in `listing` with their roles, the weights (or first shard) first.

    Raises E-MATCH when none or several models fit, E-SHARD for missing shards, E-PICKLE when there are only pickles,
    E-HUB for a name that leaves the repository.
    """
    if wanted.format in ("mlx", "safetensors"):
        chosen = select_tree(listing.files, wanted.role, listing.repo)
    else:
        chosen = _select_gguf(listing, wanted)
        _refuse_twins(chosen, listing.repo)
    for file, _ in chosen:
        if not stays_inside(file.path):
            raise LmctlError(
                "E-HUB", f"{escape(listing.repo)} lists a file named {escape(file.path)!r}", fix="report it"
            )
    return chosen


def select_tree(files: Iterable[RemoteFile], role: Role, repo: str) -> tuple[Chosen, ...]:
    """Return what an engine reads of a repository of safetensors: top-level weights, configuration, tokenizer.

    Scripts, pickles, GGUF files and folders such as `original/` are left out. Raises as `select` does.
    """
    top = {file.path: file for file in sorted(files, key=lambda file: file.path) if "/" not in file.path}
    weights = [path for path in top if path.endswith(".safetensors")]
    if role != "lora":
        # a second copy of the same tensors lies beside them in some repositories (consolidated.safetensors)
        weights = [path for path in weights if path.startswith("model")] or weights
    if not weights:
        raise _no_safetensors(top, repo)
    config = "adapter_config.json" if role == "lora" else "config.json"
    if config not in top:
        raise LmctlError("E-MATCH", f"{escape(repo)} has no {config}", fix="choose a repository in MLX format")
    models = _models([top[path] for path in weights])
    chosen = [item for model in models for item in _roles(model, role, repo)]
    for path, file in top.items():
        kind = next((kind for kind, pattern in _TREE if pattern.fullmatch(path)), None)
        if kind is not None and file.size > 0:
            chosen.append((file, kind))
    _refuse_twins(chosen, repo)
    return tuple(chosen)


def _refuse_twins(chosen: Iterable[Chosen], repo: str) -> None:
    if pair := twins(file.path for file, _ in chosen):
        one = f"{escape(pair[0])} and {escape(pair[1])} are one file where case or normal form do not count"
        raise LmctlError("E-MATCH", f"{escape(repo)}: {one}", fix="choose another repository, or rename one")


def _no_safetensors(paths: Iterable[str], repo: str) -> LmctlError:
    shown = escape(repo)
    if any(path.endswith(".gguf") for path in paths):
        fix = 'use backend = "llama.cpp", or a repository in MLX format'
        return LmctlError("E-MATCH", f"{shown} holds GGUF files and no safetensors", fix=fix)
    if any(_PICKLE.fullmatch(path) for path in paths):
        what = f"{shown} holds its weights as pickles only, which can execute code"
        return LmctlError("E-PICKLE", what, fix="choose a repository with safetensors")
    return LmctlError("E-MATCH", f"{shown} holds no safetensors", fix="choose a repository in MLX format")


def _select_gguf(listing: Listing, wanted: Wanted) -> tuple[Chosen, ...]:
    files = sorted((file for file in listing.files if _is_gguf(file.path)), key=lambda file: file.path)
    models = _models(file for file in files if not is_companion(file.path))
    if wanted.selection.startswith("file="):
        model = _named(wanted.selection.removeprefix("file="), files, models, wanted.role, listing.repo)
    elif not models:
        raise _no_gguf(listing)
    elif wanted.selection:
        model = _one(_tagged(models, wanted.selection), wanted.selection, listing.repo, models)
    else:
        model = next((found[0] for tag in _DEFAULT_TAGS if (found := _tagged(models, tag))), models[0])
    chosen = _roles(model, wanted.role, listing.repo)
    projector = _projector(files, model.name) if wanted.role == "weights" else None
    return chosen if projector is None else (*chosen, (projector, "mmproj"))


def _is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def is_companion(path: str) -> bool:
    """Return whether a GGUF file accompanies a model: a projector, an importance matrix or a draft head."""
    name = path.rpartition("/")[2]
    return _is_projector(path) or "imatrix" in name.lower() or any(draft in name for draft in _DRAFTS)


def _is_projector(path: str) -> bool:
    return "mmproj" in path.rpartition("/")[2].lower()


def _models(files: Iterable[RemoteFile]) -> list[_Model]:
    """Return the models that files make up, in the order of their first file."""
    models: dict[tuple[str, str], _Model] = {}
    for file in files:
        found = SHARD.fullmatch(file.path)
        key = (found["prefix"], found["total"]) if found else (file.path, "")
        number, total = (int(found["number"]), int(found["total"])) if found else (1, 1)
        models.setdefault(key, _Model(file.path, {}, total)).shards[number] = file
    return list(models.values())


def _roles(model: _Model, role: Role, repo: str) -> tuple[Chosen, ...]:
    """Return the files of a model, complete and in order: the first has `role`, further ones are shards."""
    numbers = range(1, model.total + 1)
    missing = [number for number in numbers if number not in model.shards]
    if missing or len(model.shards) != model.total:
        ending = f"-of-{model.total:05}.{model.name.rpartition('.')[2]}"
        names = [f"{model.stem}-{number:05}{ending}" for number in missing]
        what = f"{escape(repo)} lacks {len(missing)} of {model.total} shards: {_listed(names)}"
        if not missing:
            what = f"{escape(repo)} numbers the shards of {escape(model.stem)} wrongly"
        raise LmctlError("E-SHARD", what, fix="choose another quant, revision or repository")
    for file in model.shards.values():
        if file.size <= 0:
            code = "E-GGUF" if _is_gguf(file.path) else "E-SAFETENSORS"
            raise LmctlError(code, f"{escape(file.path)} in {escape(repo)} is empty", fix="choose another revision")
    return tuple((model.shards[number], role if number == 1 else "shard") for number in numbers)


def _tagged(models: Sequence[_Model], tag: str) -> list[_Model]:
    """Return the models whose file name has `tag` before `.` or `-`, else those in a folder so named.

    Where several have it, one that ends in it is meant, and one without the prefix "UD-" rather than with it.
    """
    tag = tag.lower()
    mark = rf"(?<![a-z0-9]){re.escape(tag)}"

    def in_name(model: _Model) -> bool:
        return re.search(rf"{mark}[.-]", model.name.rpartition("/")[2].lower()) is not None

    def in_folder(model: _Model) -> bool:
        return re.search(rf"{mark}(?:[.-][^/]*)?/", model.name.lower()) is not None

    def at_the_end(model: _Model) -> bool:
        return model.stem.lower().endswith(tag)

    def plain(model: _Model) -> bool:
        return f"ud-{tag}" not in model.name.lower()

    found = list(filter(in_name, models)) or list(filter(in_folder, models))
    for narrower in (at_the_end, plain):
        found = list(filter(narrower, found)) or found
    return found


def _one(found: Sequence[_Model], asked: str, repo: str, models: Sequence[_Model]) -> _Model:
    if len(found) == 1:
        return found[0]
    if found:
        what = f"{escape(asked)!r} fits {len(found)} models of {escape(repo)}: {_listed(m.name for m in found)}"
        raise LmctlError("E-MATCH", what, fix='name one of them with file = "…"')
    tags = sorted({tag for model in models if (tag := quant_of(model.name))})
    near = difflib.get_close_matches(asked.upper(), tags, n=1, cutoff=0.5)
    hint = f"did you mean {escape(near[0])}? " if near else ""
    known = _listed(tags, 20) if tags else _listed(model.name for model in models)
    raise LmctlError("E-MATCH", f"{escape(repo)} has no quant {escape(asked)!r}", fix=f"{hint}available: {known}")


def quant_of(path: str) -> str | None:
    """Return the quant that a file's name, else its folder's, tells."""
    found = _TAG.findall(path.rpartition("/")[2]) or _TAG.findall(path)
    return found[-1].upper() if found else None


def _named(name: str, files: Sequence[RemoteFile], models: Sequence[_Model], role: Role, repo: str) -> _Model:
    """Return the model that `name`, a path or a glob, means; a shard stands for its whole set."""
    everything = _models(files)
    for model in everything:
        if any(file.path == name for file in model.shards.values()):
            return model
    pool = [m for m in everything if _is_projector(m.name)] if role == "mmproj" else models
    found = [m for m in pool if any(fnmatchcase(file.path, name) for file in m.shards.values())]
    if len(found) == 1:
        return found[0]
    if found:
        what = (
            f"file = {escape(name)!r} matches {len(found)} models of {escape(repo)}: {_listed(m.name for m in found)}"
        )
        raise LmctlError("E-MATCH", what, fix="name one of them")
    paths = [file.path for file in files]
    near = difflib.get_close_matches(name, paths, n=1)
    hint = f"did you mean {escape(near[0])}? " if near else ""
    what = f"file = {escape(name)!r} matches no GGUF file of {escape(repo)}"
    raise LmctlError("E-MATCH", what, fix=f"{hint}it holds: {_listed(paths) if paths else 'no GGUF file'}")


def _no_gguf(listing: Listing) -> LmctlError:
    tree = any(file.path.endswith(".safetensors") for file in listing.files)
    fix = 'use backend = "mlx" for safetensors, or a GGUF repository' if tree else "choose a GGUF repository"
    return LmctlError("E-MATCH", f"{escape(listing.repo)} holds no GGUF model", fix=fix)


def _projector(files: Iterable[RemoteFile], model: str) -> RemoteFile | None:
    """Return the best projector for the file `model`: as near as can be in its folder or above, then by type, name."""
    folder = f"{model.rpartition('/')[0]}/"

    def rank(file: RemoteFile) -> tuple[int, int, str]:
        name = file.path.rpartition("/")[2]
        kinds = [n for n, tag in enumerate(_PROJECTOR_TAGS) if re.search(rf"(?<![a-z0-9]){tag}[.-]", name, re.I)]
        return -file.path.count("/"), kinds[0] if kinds else len(_PROJECTOR_TAGS), file.path

    def near(path: str) -> bool:
        above = path.rpartition("/")[0]
        return not above or folder.startswith(f"{above}/")

    found = [file for file in files if _is_projector(file.path) and near(file.path) and file.size > 0]
    return min(found, key=rank, default=None)


def _listed(names: Iterable[str], limit: int = _LISTED) -> str:
    shown = [escape(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more
