"""Benchmarks: each prints one table with medians, ratios, machine and commit."""
