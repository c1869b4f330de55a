"""What stands around the core: the page, the jobs, the command line."""
