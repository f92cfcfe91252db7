"""Operations with a fast implementation, each beside its plain reference."""

from recycleseg.ops.build_info import build_info
from recycleseg.ops.overlap_counts import overlap_counts

__all__ = ["build_info", "overlap_counts"]
