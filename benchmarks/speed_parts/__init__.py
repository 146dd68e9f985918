"""What `benchmarks/speed.py` measures, a file each."""
