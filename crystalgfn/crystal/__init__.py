"""Crystals: batches, tables, crystallography, and the environment that builds crystals."""
