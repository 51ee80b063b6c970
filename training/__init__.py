"""Offline training: fits networks on the operator's own pictures and exports them into the models folder."""
