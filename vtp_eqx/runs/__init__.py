"""Jobs with a folder: from a config to what is on disk, resumed where it was killed."""
