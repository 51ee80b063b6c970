"""The command line's client side: a verb for each task, built from `TASKS`. What serves is in `app.__main__`."""
