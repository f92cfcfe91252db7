"""Segment whole volumes with a network that sees windows."""
