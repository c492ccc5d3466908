"""Policy versions that do not come, and how long an actor puts up with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import PolicyVersion
from protocol.weights.fetching import FetchError

GIVE_UP_FETCH_S = 1800.0
"""An actor that gets no version for so long, while the learner publishes newer ones or the weight store cannot be reached, ends. A learner
that publishes none may take as long as it likes: it builds its model, or takes the steps of a long journal again. Whether it is alive is
the supervisor's business."""


@dataclass
class Failing:
    """Versions that do not come."""

    first: PolicyVersion
    since_s: float | None = None
    """When a newer one was published first."""
    away_since_s: float | None = None
    """When the weight store was first found not to answer."""

    def too_long(self, wanted: PolicyVersion, error: FetchError, now_s: float) -> bool:
        """Fetching `wanted` has failed; True when the actor is to give up."""
        return self._for_s(wanted, error, now_s) > GIVE_UP_FETCH_S

    def _for_s(self, wanted: PolicyVersion, error: FetchError, now_s: float) -> float:
        """For how long something is wrong: the learner publishes and nothing comes, or nobody is there to ask."""
        if wanted > self.first and self.since_s is None:
            self.since_s = now_s
        if error.store_answers is not None:
            self.away_since_s = None if error.store_answers else self.away_since_s or now_s
        return max((now_s - since_s for since_s in (self.since_s, self.away_since_s) if since_s is not None), default=0.0)
