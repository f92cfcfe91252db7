"""One file a format: each reads a file as its channels and writes one array."""
