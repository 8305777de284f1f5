"""Results in words: what pytest shows of a run with guests."""
