"""Galleries: named collections of embeddings that are searched for the nearest to a picture's.

SQLite (`database`, `catalogue`) is the truth; what processes hold in memory (`holding`) and index files (`index`,
`upkeep`) are made from it, and made again where they are missing. Pictures, models and callers are left to `app.api`:
vectors come in, ids go out.
"""
