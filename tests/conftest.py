"""What holds for every test process."""

from __future__ import annotations

import os

# Ray reads this once, when it is imported, and vLLM imports Ray: a cluster that a later test starts would be locked out.
os.environ.setdefault("RAY_AUTH_MODE", "token")
