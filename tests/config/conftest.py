"""A declaration in an empty folder, loaded as the command line does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from declarations import PRELUDE, Place

from lmctl.spec import Declaration


@pytest.fixture
def place(tmp_path: Path, home: Path) -> Place:
    return Place(tmp_path, home)


@pytest.fixture
def loaded(place: Place) -> Callable[..., Declaration]:
    """Load one localmodels.toml from its text, after the two lines that every one starts with."""

    def load_text(text: str, *sets: str, **how: object) -> Declaration:
        place.write("localmodels.toml", PRELUDE + text)
        return place.load(*sets, **how)  # type: ignore[arg-type]

    return load_text
