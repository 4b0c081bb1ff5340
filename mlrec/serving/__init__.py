"""A trained workdir as a web service: questions are checked, batched, answered and shown."""
