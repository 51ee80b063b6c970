"""The Open Inference Protocol v2 over gRPC, on a port of its own: the requests of `/v2`, in another form."""
