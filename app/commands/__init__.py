"""Subcommands: a verb for each task, built from `TASKS`, and `imago keys`. What serves is in `app.__main__`."""
