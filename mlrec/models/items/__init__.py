"""One item's content → a vector."""
