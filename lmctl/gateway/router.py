"""Where a request for `auto` goes: to a profile of this machine, or to the declared cloud. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lmctl.errors import escape
from lmctl.front import Router
from lmctl.gateway.features import MOST_CODE, Features, features
from lmctl.gateway.refused import Refused
from lmctl.record import NOTHING, record
from lmctl.spec import Declaration, Json, Profile

TASK, COMPLEXITY = b"x-lmctl-task", b"x-lmctl-complexity"  # headers by which a client says what it knows better
ENDPOINTS = frozenset(["chat", "completions", "responses"])  # whose requests the router may send to a cloud

_NUMBER = re.compile(rb"0(?:\.\d{1,9})?|1(?:\.0{1,9})?")
_SHOWN = 20  # tasks that a refusal names


@record
class Weight:
    """A feature's part of the score: `weight` where it is `full` or more, in proportion below."""

    feature: str
    weight: float
    full: int
    means: str


WEIGHTS = (
    Weight("prompt", 0.35, 8000, "tokens of the prompt, tools included"),
    Weight("code", 0.20, MOST_CODE, "lines that begin like code; a fence (```) counts as 20"),
    Weight("tools", 0.15, 1, "tools that the client offers"),
    Weight("turns", 0.10, 10, "messages of the user after the first"),
    Weight("output", 0.10, 4000, "tokens that the answer may have, where the client says so"),
    Weight("schema", 0.05, 1, "an answer that must follow a schema or a grammar"),
    Weight("images", 0.05, 1, "images"),
)


@record
class Table:
    """What the router decides by. `cloud` is None where none is declared, or this machine's owner trusts it not."""

    router: Router = Router()
    cloud: str | None = None
    tasks: Mapping[str, str] = NOTHING  # task -> profile
    usual: Mapping[str, str] = NOTHING  # endpoint -> profile, where no task says more


@record
class Decision:
    """Where a request goes, why in a few words, and its score of 0 to 1.

    `cloud` None: it stays here. Both given: the profile answers where the cloud cannot.
    """

    profile: str | None
    cloud: str | None
    why: str
    score: float


def table(declaration: Declaration) -> Table | None:
    """Return what the router of a declaration decides by, None where none is declared."""
    router = declaration.router
    if router is None:
        return None
    profiles = declaration.profiles
    names = {alias: one.name for one in profiles for alias in one.aliases} | {one.name: one.name for one in profiles}
    tasks: dict[str, str] = {}
    for one in profiles:
        for task in one.tasks:
            tasks.setdefault(task, one.name)
    tasks |= {task: names[name] for task, name in router.tasks.items() if name in names}
    default = declaration.front.default
    kinds = {kind: [one.name for one in profiles if _serves(one) == kind] for kind in ("chat", "embeddings", "rerank")}
    usual = {kind: found[0] for kind, found in kinds.items() if found}
    if default is not None and names.get(default) in kinds["chat"]:
        usual["chat"] = names[default]
    allowed = router.cloud if any(cloud.name == router.cloud for cloud in declaration.clouds) else None
    return Table(router, allowed, tasks, usual)


def _serves(profile: Profile) -> str:
    settings = profile.settings
    return "embeddings" if settings.embeddings else "rerank" if settings.rerank else "chat"


def score(found: Features) -> float:
    """Return the complexity of a request: 0 to 1, the sum of WEIGHTS."""
    total = sum(one.weight * min(1.0, vars(found)[one.feature] / one.full) for one in WEIGHTS)
    return min(1.0, float(round(total, 6)))


def complexity(value: bytes | None) -> float | None:
    """Return the score that a client's header gives. Raises Refused 400 for what is no number from 0 to 1."""
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise Refused(400, "invalid_headers", "X-Lmctl-Complexity must be a number from 0 to 1, such as 0.7")
    return float(value)


def decide(
    rules: Table, endpoint: str, body: dict[str, Json], task: bytes | None = None, given: float | None = None
) -> Decision:
    """Return where a request goes; `given` is the client's own score.

    In this order: what `tools` and `images` say, staying here before leaving; a prompt above `max_prompt`; the score
    against `threshold`. The task says which profile answers here. Raises Refused: 400 for a task that nobody
    declares, 404 where nothing can answer.
    """
    profile, named = _profile(rules, endpoint, task)
    found = features(body) if endpoint in ENDPOINTS else Features()
    points = score(found) if given is None else given
    if rules.cloud is None or endpoint not in ENDPOINTS:
        if profile is None:
            raise Refused(404, "model_not_found", f"no profile serves {endpoint}", "model")
        return Decision(profile, None, named or "no cloud to ask" if endpoint in ENDPOINTS else "kept here", points)
    if profile is None:
        return Decision(None, rules.cloud, "no profile serves it", points)
    ruled = _ruled(rules.router, found)
    if ruled is not None:
        away, why = ruled
        return Decision(None, rules.cloud, why, points) if away else Decision(profile, None, why, points)
    if points >= rules.router.threshold:
        return Decision(profile, rules.cloud, f"score {points:.2f}", points)
    return Decision(profile, None, ", ".join(filter(None, (named, f"score {points:.2f}"))), points)


def _ruled(router: Router, found: Features) -> tuple[bool, str] | None:
    """Return whether a rule sends it away, and which one; None where none says anything."""
    sides = {"tools": router.tools if found.tools else None, "images": router.images if found.images else None}
    for name, side in sides.items():
        if side == "local":
            return False, name
    for name, side in sides.items():
        if side == "cloud":
            return True, name
    if router.max_prompt is not None and found.prompt > router.max_prompt:
        return True, "prompt above max_prompt"
    return None


def _profile(rules: Table, endpoint: str, task: bytes | None) -> tuple[str | None, str]:
    """Return the profile that answers here, and what says so besides what is usual."""
    if task is None:
        return rules.usual.get(endpoint if endpoint in ("embeddings", "rerank") else "chat"), ""
    name = task.decode("latin-1").strip()
    if name not in rules.tasks:
        known = ", ".join(sorted(rules.tasks)[:_SHOWN]) or "none"
        raise Refused(400, "unknown_task", f"no task is called {escape(name, 60)}; declared: {known}")
    return rules.tasks[name], f"task {escape(name, 60)}"
