"""From a file, a stream or an array to audio embeddings."""
