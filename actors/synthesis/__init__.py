"""Data sets made from nothing but a teacher and a speech synthesiser: instructions, references, tags, splits, speech."""
