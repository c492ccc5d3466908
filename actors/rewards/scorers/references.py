"""The reference answer of an item, for scorers that compare with it."""

from __future__ import annotations

from actors.rewards.items import RewardItem, RewardScore, unscored


def has_reference(item: RewardItem) -> bool:
    """True when there is something to compare with."""
    return bool(item.reference and item.reference.strip())


def missing_reference(item: RewardItem, scorer: str) -> RewardScore:
    """The outcome of an item without one."""
    return unscored(item.id, f"no_reference: {scorer} compares with a reference, and the item has none")
