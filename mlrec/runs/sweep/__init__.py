"""Sweeps: the best settings of a config, by Optuna, on validation alone."""
