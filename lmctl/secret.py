"""What looks like a secret, by what it says and by what it is called."""

from __future__ import annotations

import re

NAMES_SECRET = re.compile(r"(?i)(^|_)(token|secret|password|passwd|api_?keys?|credentials?)$")
LOOKS_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{16,}")
