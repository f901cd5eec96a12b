"""Turning objectives into updates of arrays: state, optimizer, step; no files."""
