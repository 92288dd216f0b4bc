"""What a backend needs around the client: a cache of keys, and usage logged in batches."""
