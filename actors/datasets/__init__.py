"""Data sets of other formats, read into rba's own and written from it."""
