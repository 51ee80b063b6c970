"""Other servers for the same work: each folder holds one server's script and the versions it was measured with.

A script runs in an environment of its own (`benchmarks.environments`), so that it may import its own server and
`benchmarks.peers.shared`, and nothing else of this repository. It is started as a module; everything that it needs to
know comes as `PEER_*` variables.
"""
