"""mlrec: micro-video recommendation in JAX."""
