"""Background jobs: many pictures that a caller leaves here, to be answered when nobody waits for an answer.

A background job is no job of the scheduler: each of its pictures becomes one there, with a deadline that never comes.
`arrivals` takes pictures in, `zips` looks a zip through before it is trusted, `store` keeps what is known of each job
in SQLite and its files in a folder, `runner` has the pictures answered, in one process of the service. `app.batch` does
the rest: sources, journal, results. How jobs are asked for is left to `app.api`.
"""
