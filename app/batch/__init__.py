"""Many pictures to one file of results: in this process, in several, or through a service; resumable.

`sources` lists and reads pictures, `run` has them answered by any number of answerers (`embedded`, `children`,
`served`), `journal` keeps what was answered, `outputs` writes it in its final form. Knows nothing of command lines.
"""
