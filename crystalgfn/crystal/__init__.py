"""Crystals: batches and tables of them, their crystallography, and the environment that builds them."""
