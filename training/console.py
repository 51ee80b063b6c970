"""The console that every line of `imago-train` goes to."""

from rich.console import Console

console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
