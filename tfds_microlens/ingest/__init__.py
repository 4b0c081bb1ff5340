"""Logs, titles and media of any origin to prepared data sets, as `python -m mlrec.ingest` makes them."""
