"""What has a folder: the jobs, each a function from a config and a folder."""
