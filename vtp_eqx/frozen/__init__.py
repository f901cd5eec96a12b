"""Networks that nobody trains here: their layers, and how published files are read."""
