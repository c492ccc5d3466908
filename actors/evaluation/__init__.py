"""Held-out evaluation: from the answers to a group's voices to its measures."""
