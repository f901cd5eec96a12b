"""The toy world: captioned scenes, drawn from an index."""
