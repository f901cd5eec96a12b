"""Layers that act on one example; they know no model, loss or data."""
