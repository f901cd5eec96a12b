"""Studies: many runs from one plan, in parallel, reused by hash, as one report."""
