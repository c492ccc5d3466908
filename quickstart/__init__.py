"""The embedded default: a world small enough for two CPU cores."""
