"""What `rba serve-rewards` is told, where it is given no recipe of a run: the rewards alone."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from configs.sampling import RewardsSection
from configs.section import Section


class ServingConfig(Section):
    """A reward server of its own."""

    rewards: RewardsSection = RewardsSection()

    @model_validator(mode="after")
    def the_scorer_has_what_it_needs(self) -> Self:
        """Refuse a scorer without its model, address or function."""
        self.rewards.require()
        return self
