"""Runs from a config to a table: workdirs, results, experiments, sweeps, studies, reports."""
