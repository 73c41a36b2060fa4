"""What is fast, measured beside what else a user would take. Ratios of one interleaved run, not absolute numbers."""
