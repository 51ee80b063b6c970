"""What is counted, timed and logged. Names and buckets live here; who observes what is each layer's own."""
