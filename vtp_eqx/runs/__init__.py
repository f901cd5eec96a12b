"""Jobs that write a folder: the loop, checkpoints, recovery, logs and reports."""
