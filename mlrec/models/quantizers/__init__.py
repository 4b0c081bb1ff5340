"""What turns vectors of items into short tuples of codes, a quantizer a file."""
