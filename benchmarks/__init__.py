"""What imago can do, measured: each module is a command that prints a table."""
