"""The comparison: measured into one JSON file, rendered from it (see bench/report.py)."""
