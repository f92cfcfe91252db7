from collections.abc import Callable
from typing import Any

def build_config() -> dict[str, Any]: ...
def overlap_counts_cpu(
    pred: object, ref: object, counts: object, invalid: object, num_threads: int
) -> None: ...

# Absent from an extension that was built for the CPU alone.
overlap_counts_cuda: Callable[[object, object, object, object, int], None]
