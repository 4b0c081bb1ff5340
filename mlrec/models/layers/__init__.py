"""Small shared layers, shapes documented."""
