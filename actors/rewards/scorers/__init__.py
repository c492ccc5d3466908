"""Scorers: from an instruction, an answer and perhaps a reference to a number."""
