"""What a run would take on machines that are not here: its programs compiled for them, and their costs."""
