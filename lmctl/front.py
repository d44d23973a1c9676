"""What a declaration says of its gateway."""

from __future__ import annotations

from pathlib import Path

from lmctl.record import record


@record
class Front:
    """Bytes and seconds; what is not declared is as here."""

    port: int = 8080
    default: str | None = None  # the profile for requests that name none
    origins: tuple[str, ...] = ()  # web origins that may ask
    max_body: int = 32 << 20
    request_timeout: float = 600.0
    drain_timeout: float = 30.0
    keys_file: Path | None = None  # one key per line, of machine.toml: a committed file must not decide it
