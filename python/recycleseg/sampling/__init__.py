"""Whole volumes by a network that sees windows."""
