"""Segmentation metrics."""

from recycleseg.metrics.aggregate import Summary, summarise
from recycleseg.metrics.evaluate import evaluate
from recycleseg.metrics.scores import Scores

__all__ = ["Scores", "Summary", "evaluate", "summarise"]
