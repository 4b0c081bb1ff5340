"""Image encoders: covers to vectors."""
