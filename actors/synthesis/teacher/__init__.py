"""The language model that a synthesis asks: what it is asked with, and the ways to reach it."""
