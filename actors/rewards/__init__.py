"""Rewards: scorers, the server that offers them, the client that asks."""
