"""Prediction of whole volumes from a trained network."""
