"""The learner's journal: what was received, trained and dropped, on disk before anybody relies on it. Decides nothing about training."""

JOURNAL = "journal"
"""Its folder in the run's."""
