"""Memory of models before they are loaded; pure."""

from lmctl.fit.needs import DEFAULT_CTX, Need, need, request_context
from lmctl.fit.together import Verdict, verdict

__all__ = ["DEFAULT_CTX", "Need", "Verdict", "need", "request_context", "verdict"]
