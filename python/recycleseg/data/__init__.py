"""From files on disk to batches of patches, and from predictions back to the grid of a file."""

from recycleseg.data.cache import PreparedDataset, prepare_dataset
from recycleseg.data.check import check_dataset
from recycleseg.data.layout import Case, Dataset, read_dataset
from recycleseg.data.patches import PatchSampler
from recycleseg.data.preprocess import (
    Plan,
    PreparedCase,
    PreprocessConfig,
    native_label,
    preprocess_image,
    restore,
)
from recycleseg.data.volumes import Volume, read_volume, write_volume

__all__ = [
    "Case",
    "Dataset",
    "PatchSampler",
    "Plan",
    "PreparedCase",
    "PreparedDataset",
    "PreprocessConfig",
    "Volume",
    "check_dataset",
    "native_label",
    "prepare_dataset",
    "preprocess_image",
    "read_dataset",
    "read_volume",
    "restore",
    "write_volume",
]
