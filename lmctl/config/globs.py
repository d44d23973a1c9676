"""Globs of host names (`*`, `?`, `[abc]`, case ignored), and which of several one name can match together."""

from __future__ import annotations

from functools import cache

State = frozenset[int]
_MOST_STEPS = 100_000
_OTHER = "\0"  # stands for every character that no glob names


@cache
def _tokens(glob: str) -> tuple[frozenset[str] | str, ...]:
    """Return the glob as `*`, `?` and sets of characters; `[!…]` is a set of its own kind, marked by NUL-first."""
    found: list[frozenset[str] | str] = []
    at, glob = 0, glob.lower()
    while at < len(glob):
        end = glob.find("]", at + 2) if glob[at] == "[" else -1
        if glob[at] in "*?":
            found.append(glob[at])
        elif end > 0:
            found.append(_members(glob[at + 1 : end]))
            at = end
        else:
            found.append(frozenset(glob[at]))
        at += 1
    return tuple(found)


def _members(text: str) -> frozenset[str]:
    members: set[str] = set()
    negated, at = text[0] == "!", 0
    text = text.removeprefix("!")
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            members.update(chr(code) for code in range(ord(text[at]), min(ord(text[at + 2]), ord(text[at]) + 256) + 1))
            at += 3
        else:
            members.add(text[at])
            at += 1
    return frozenset({_OTHER, *_HOST_CHARACTERS} - members) if negated else frozenset(members)


_FEW = 6  # globs whose product is always small enough
_HOST_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-._"


def _closed(tokens: tuple[frozenset[str] | str, ...], states: set[int]) -> State:
    """Add the states that are reached by letting a `*` match nothing."""
    todo = list(states)
    while todo:
        state = todo.pop()
        if state < len(tokens) and tokens[state] == "*" and state + 1 not in states:
            states.add(state + 1)
            todo.append(state + 1)
    return frozenset(states)


def _step(tokens: tuple[frozenset[str] | str, ...], states: State, character: str) -> State:
    after = set()
    for state in states:
        if state == len(tokens):
            continue
        piece = tokens[state]
        if piece == "*":
            after.add(state)
        elif piece == "?" or character in piece:
            after.add(state + 1)
    return _closed(tokens, after)


def matches(glob: str, name: str) -> bool:
    tokens = _tokens(glob)
    states = _closed(tokens, {0})
    for character in name.lower():
        states = _step(tokens, states, character if character in _HOST_CHARACTERS else _OTHER)
    return len(tokens) in states


@cache
def together(globs: tuple[str, ...]) -> frozenset[frozenset[str]]:
    """Return every set of globs of which one name matches all and no others: ends of their product automaton.

    Its size is bounded: of many globs that overlap in many ways, what was found until then is returned. Where there
    are many, names without a wildcard are taken apart, and a set may be returned that only such a name would match.
    """
    if len(globs) <= _FEW:
        return frozenset(_ends(list(globs)))
    plain = [glob for glob in globs if all(isinstance(piece, frozenset) and len(piece) == 1 for piece in _tokens(glob))]
    wild = [glob for glob in globs if glob not in plain]
    same: dict[str, list[str]] = {}
    for glob in plain:
        same.setdefault(glob.lower(), []).append(glob)
    ends = {frozenset([*held, *(g for g in wild if matches(g, name))]) for name, held in same.items() if name}
    return frozenset(ends | _ends(wild))


def _ends(globs: list[str]) -> set[frozenset[str]]:
    """Return the sets of globs that single names match, by walking the product of their automata."""
    automata = [_tokens(glob) for glob in globs]
    letters = sorted({c for tokens in automata for token in tokens if isinstance(token, frozenset) for c in token})
    most = _MOST_STEPS // (len(globs) * (len(letters) + 1) + 1)
    start = tuple(_closed(tokens, {0}) for tokens in automata)
    seen, todo, ends = {start}, [start], set[frozenset[str]]()
    while todo and len(seen) <= max(most, 2):
        here = todo.pop(0)
        for character in (_OTHER, *letters):
            after = tuple(_step(tokens, states, character) for tokens, states in zip(automata, here, strict=True))
            ends.add(frozenset(g for g, t, s in zip(globs, automata, after, strict=True) if len(t) in s))
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return ends
