"""Compiles kernels for GPUs that need not be there: one JSON object a line, what each takes.

    python compile_ahead.py noise_step ...

Run as a process of its own, for the tests' has Triton interpret kernels.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys

import triton
from launches import LAUNCHES
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CAPABILITIES = (80, 90, 100)


def main(operations: list[str]) -> None:
    triton.knobs.nvidia.dump_ptxas_log = True
    for operation in operations:
        for kernel, signature, constants, num_warps in LAUNCHES[operation]():
            # As at a launch, where torch's allocations and typical sizes are multiples of 16.
            attributes = {
                (index,): [["tt.divisibility", 16]]
                for index, dtype in enumerate(signature.values())
                if dtype != "constexpr"
            }
            for capability in CAPABILITIES:
                log = io.StringIO()
                with contextlib.redirect_stdout(log):
                    triton.compile(
                        ASTSource(kernel, signature, constants, attributes),
                        target=GPUTarget("cuda", capability, 32),
                        options={"num_warps": num_warps, "enable_fp_fusion": True},
                    )
                usage = re.search(
                    r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
                    log.getvalue(),
                    re.DOTALL,
                )
                assert usage is not None, f"ptxas tells no registers: {log.getvalue()!r}"
                stores, loads, registers = map(int, usage.groups())
                values = ", ".join(f"{k}={v}" for k, v in constants.items() if k[0].isupper())
                print(
                    json.dumps(
                        {
                            "kernel": f"{kernel.__name__} on sm_{capability}: {values}",
                            "registers": registers,
                            "spilled_bytes": stores + loads,
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
