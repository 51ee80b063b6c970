"""When a job runs and with whom: the policy decides, the batcher waits. Neither knows what a tensor means."""
