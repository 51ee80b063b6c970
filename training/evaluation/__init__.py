"""Evaluation: what an exported version is worth on held-out pictures, through the code that serves it."""
