"""The measurements of `benchmarks/speed.py`, one in each file."""
