"""Folders of segmentations against folders of references, and one against another."""

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
