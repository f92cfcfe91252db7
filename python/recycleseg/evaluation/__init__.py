"""Evaluate a folder of segmentations against references, and compare two such folders."""

from recycleseg.evaluation.compare import Comparison, ComparisonRow, compare
from recycleseg.evaluation.folder import FolderScores, evaluate_folder
from recycleseg.evaluation.summary import summarise_folder

__all__ = [
    "Comparison",
    "ComparisonRow",
    "FolderScores",
    "compare",
    "evaluate_folder",
    "summarise_folder",
]
