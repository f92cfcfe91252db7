"""From files on disk to batches of patches, and from predictions back to the files' grid."""

from recycleseg.data.layout import read_dataset
from recycleseg.data.volumes import read_image, read_label, read_volume, write_volume

__all__ = ["read_dataset", "read_image", "read_label", "read_volume", "write_volume"]
