"""Measurements of tokenizers and of samples, each written with its card."""
