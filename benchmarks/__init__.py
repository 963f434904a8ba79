"""Measurements: `python -m benchmarks [--suite NAME]` prints a table and writes benchmarks/results/latest.json."""
