"""Several processes behind one port: HTTP workers, and an engine that owns the sessions of the larger models.

A worker decodes, answers, and runs small models itself, between two requests. Larger models are opened once, in the
engine: its lanes see the jobs of all workers, so that batches, order and admission are those of one process. Tensors
pass through shared memory (`arena`), short messages through a socket (`link`). The supervisor forks all of them before
any has a thread, and replaces the one that dies.
"""
