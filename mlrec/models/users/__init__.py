"""A history of item vectors → user states."""
