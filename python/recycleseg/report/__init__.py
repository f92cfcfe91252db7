"""Figures of runs, and the report of an evaluation."""
