"""An item tower and a user tower under one loss."""
