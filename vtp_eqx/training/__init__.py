"""Turning objectives into updates: state, optimizer, step, checkpoints and runs."""
