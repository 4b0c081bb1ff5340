"""State, optimiser, sharding, checkpoints and the one loop for everything."""
