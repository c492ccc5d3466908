"""Everything that starts, watches or stops processes."""
