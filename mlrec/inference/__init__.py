"""A trained workdir in use: recommendations, neighbours, vectors."""
