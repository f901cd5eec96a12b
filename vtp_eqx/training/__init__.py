"""State, optimizer, objectives, step and checkpoints."""
