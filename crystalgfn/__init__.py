"""Discover crystals with a GFlowNet under hard physical constraints."""

__version__ = "0.1.0"
