"""HTTP: from an operation to its result, over postgrest-py and httpx."""
