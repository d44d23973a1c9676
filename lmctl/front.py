"""What a declaration says of its resident half: gateway, clouds, router and accounts. Bytes, seconds, USD."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lmctl.record import NOTHING, record

Side = Literal["local", "cloud"]

AUTO = "auto"  # the model that the router decides
CLOUD = "cloud:"  # before the name of a cloud where the name of a model stands


@record
class Front:
    """The gateway; what is not declared is as here."""

    enabled: bool = True
    port: int = 8080
    default: str | None = None  # the profile for requests that name none
    origins: tuple[str, ...] = ()  # web origins that may ask
    max_body: int = 32 << 20
    request_timeout: float = 600.0
    load_timeout: float = 300.0  # longest wait for a profile to be started
    drain_timeout: float = 30.0
    keys_file: Path | None = None  # one key per line, of machine.toml: a committed file must not decide it


@record
class Cloud:
    """A model elsewhere, behind an OpenAI-compatible address. Prices are USD per million tokens, None: not told."""

    name: str
    base_url: str
    model: str
    key_env: str | None = None  # variable that holds the key
    key_file: Path | None = None
    price_in: float | None = None
    price_out: float | None = None


@record
class Router:
    """What `model = "auto"` goes by. `tasks` maps a task to a profile, `max_prompt` is in tokens."""

    threshold: float = 0.7  # complexity from which a request goes to the cloud
    cloud: str | None = None
    tasks: Mapping[str, str] = NOTHING
    max_prompt: int | None = None
    tools: Side | None = None
    images: Side | None = None


@record
class Accounts:
    """Whether requests are counted, and for how many seconds each one is kept by itself."""

    enabled: bool = True
    keep: float = 90 * 86400.0
    compare: tuple[str, ...] = ()  # names of reference prices
