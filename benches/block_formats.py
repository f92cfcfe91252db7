"""A patch of a prepared case read from our blocks, from zarr 3 and from blosc2.

pip install zarr blosc2
python benches/block_formats.py [--folder DIR] [--out benches/results/block_formats-MACHINE.json]

A made-up CT of 512x512x200 voxels, float32 after windowing, and a label map, uint8. A patch of both
is read from a random place. Bytes are those that the system read from the disk after the files had
been dropped from its cache; CPU time is of files in its cache. DIR must be on a disk (Linux).
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from zarr.codecs import BloscCodec

from recycleseg.data import blocks
from recycleseg.data.blocks import Blocks, to_blocks
from recycleseg.run.environment import describe_environment

Array = NDArray[Any]
# Gives the patch (*P) from a voxel on.
Read = Callable[[tuple[int, ...]], Array]

SHAPE, PATCH, EDGE = (512, 512, 200), (64, 64, 64), 32
PATCHES = 50
# Bytes per second of a hard disk or a shared network disk, and of an SSD.
DISKS = {"150 MB/s": 150e6, "1 GB/s": 1e9}


def made_up_ct() -> tuple[Array, Array]:
    """A body of tissues in air, with noise, in whole Hounsfield units, windowed; its tissues."""
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(size=[n // 8 for n in SHAPE]), 3)
    field = ndimage.zoom(coarse.astype(np.float32), 8, order=1)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    body = np.broadcast_to(np.hypot(x / 0.8, y / 0.65) < 1, SHAPE)
    tissue = np.digitize(field, np.quantile(field, [0.6, 0.8, 0.95])).astype(np.uint8)
    units = np.array([-80, 40, 110, 400], np.float32)[tissue]
    units += rng.normal(0, 20, SHAPE).astype(np.float32)
    units = np.where(body, units.round(), -1000).clip(-160, 240)
    return (units - 40) / 100, tissue * body


def ours(path: Path, array: Array) -> Read:
    """One .npy file of blocks."""
    with path.open("wb") as file:
        np.save(file, to_blocks(torch.from_numpy(array), 3).numpy())
    stored = Blocks(path, array.shape)

    def read(start: tuple[int, ...]) -> Array:
        patch = torch.empty(PATCH, dtype=stored.dtype)
        stored.copy_patch(start, patch)
        return patch.numpy()

    return read


def with_zarr(path: Path, array: Array, compressor: Any) -> Read:
    """One shard, so that a case is one file."""
    shards = tuple(-(-size // EDGE) * EDGE for size in array.shape)
    stored = zarr.create_array(
        path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(EDGE,) * 3,
        shards=shards,
        compressors=compressor,
    )
    stored[:] = array
    opened = zarr.open_array(path, mode="r")
    return lambda start: np.asarray(opened[tuple(map(slice, start, np.add(start, PATCH)))])


def with_blosc2(path: Path, array: Array, level: int) -> Read:
    """Chunks of 64 voxels along each axis in blocks of 32, which are read alone."""
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        mode="w",
        chunks=(2 * EDGE,) * 3,
        blocks=(EDGE,) * 3,
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": level, "nthreads": 1},
    )
    opened = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    return lambda start: opened[tuple(map(slice, start, np.add(start, PATCH)))]


WRITERS: dict[str, Callable[[Path, Array], Read]] = {
    "blocks": ours,
    "zarr": lambda path, array: with_zarr(path, array, None),
    "zarr, zstd": lambda path, array: with_zarr(path, array, BloscCodec(cname="zstd", clevel=1)),
    "blosc2": lambda path, array: with_blosc2(path, array, 0),
    "blosc2, zstd": lambda path, array: with_blosc2(path, array, 1),
}


def measure(folder: Path, name: str, arrays: tuple[Array, ...]) -> dict[str, Any]:
    """What a patch of all arrays costs in this format."""
    write = WRITERS[name]
    paths = [folder / f"{name}-{number}.bin" for number in range(len(arrays))]
    started = time.process_time()
    readers = [write(path, array) for path, array in zip(paths, arrays, strict=True)]
    cpu_to_write = time.process_time() - started
    rng = np.random.default_rng(1)
    starts = [tuple(map(int, rng.integers(0, np.subtract(SHAPE, PATCH)))) for _ in range(PATCHES)]
    files = [f for path in paths for f in ([path] if path.is_file() else path.rglob("*"))]
    files = [file for file in files if file.is_file()]
    bytes_read = 0
    for start in starts:
        for file in files:
            _forget(file)
        before = _bytes_from_disk()
        for array, read in zip(arrays, readers, strict=True):
            expected = array[tuple(map(slice, start, np.add(start, PATCH)))]
            np.testing.assert_array_equal(read(start), expected)
        bytes_read += _bytes_from_disk() - before
    _read_all(readers, starts)  # all is in the cache now
    started = time.process_time()
    _read_all(readers, starts)
    cpu = (time.process_time() - started) / PATCHES
    per_patch = bytes_read / PATCHES
    return {
        "megabytes_on_disk": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "megabytes_read_per_patch": round(per_patch / 1e6, 2),
        "cpu_ms_per_patch": round(cpu * 1e3, 2),
        "cpu_seconds_to_write": round(cpu_to_write, 1),
        **{
            f"ms_per_patch_at_{disk}": round((per_patch / speed + cpu) * 1e3, 1)
            for disk, speed in DISKS.items()
        },
    }


def _read_all(readers: list[Read], starts: list[tuple[int, ...]]) -> None:
    for start in starts:
        for read in readers:
            read(start)


def _forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _lines_of_code(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the files go for a while")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    arrays = made_up_ct()
    results = {}
    for name in WRITERS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results[name] = measure(Path(folder), name, arrays)
        print(name, results[name], flush=True)
    lines = {
        "blocks": _lines_of_code(inspect.getsource(blocks)),
        "zarr": _lines_of_code(inspect.getsource(with_zarr)),
        "blosc2": _lines_of_code(inspect.getsource(with_blosc2)),
    }
    print("lines of code", lines)
    if arguments.out is not None:
        environment = describe_environment(torch.device("cpu"), "float32")
        environment.pop("command")
        content = {
            "environment": environment,
            "versions": {"zarr": zarr.__version__, "blosc2": blosc2.__version__},
            "lines_of_code": lines,
            "formats": results,
        }
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
