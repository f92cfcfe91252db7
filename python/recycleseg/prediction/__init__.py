"""From image files to segmentations on their grids."""
