"""Studies: many runs from one plan, in parallel, reused by hash, as table and figure."""
