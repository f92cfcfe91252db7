"""Ways in which folders get damaged: by people, by other programs, by disks."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Mutation = Callable[[Path, random.Random], None]

# What no key of our JSON files expects everywhere.
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3.7,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "\udcff",
    [],
    [[]],
    [None],
    ["a", 1],
    {},
    {"": ""},
    {"0": None},
    {"background": "x"},
)
STRAY = (".DS_Store", "Thumbs.db", "~$notes.docx", "notes.txt", "._d0.png", "d0 (1).png", "copy")


def files_in(folder: Path) -> list[Path]:
    """All files of a folder, in an order that does not depend on the disk."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _a_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(files_in(folder))


def delete(folder: Path, rng: random.Random) -> None:
    """A file is gone."""
    _a_file(folder, rng).unlink()


def delete_folder(folder: Path, rng: random.Random) -> None:
    """A folder is gone, perhaps the whole."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    shutil.rmtree(rng.choice(folders))


def truncate(folder: Path, rng: random.Random) -> None:
    """A copy was stopped."""
    path = _a_file(folder, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def empty(folder: Path, rng: random.Random) -> None:
    """A disk was full."""
    _a_file(folder, rng).write_bytes(b"")


def overwrite_with_noise(folder: Path, rng: random.Random) -> None:
    """A file is something else."""
    _a_file(folder, rng).write_bytes(rng.randbytes(rng.randrange(1, 400)))


def flip_bits(folder: Path, rng: random.Random) -> None:
    """A disk is failing."""
    path = _a_file(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def replace_by_folder(folder: Path, rng: random.Random) -> None:
    """A folder has the name of a file."""
    path = _a_file(folder, rng)
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "inside.txt").write_text("x")


def replace_folder_by_file(folder: Path, rng: random.Random) -> None:
    """A file has the name of a folder."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    path = rng.choice(folders)
    shutil.rmtree(path)
    path.write_text("x")


def exchange(folder: Path, rng: random.Random) -> None:
    """Two files have each other's name."""
    one, other = _a_file(folder, rng), _a_file(folder, rng)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def rename(folder: Path, rng: random.Random) -> None:
    """A file has an odd ending or name."""
    path = _a_file(folder, rng)
    endings = (".PNG", ".nii", ".txt", ".json", ".png.png", "", ".", " ", ".npz", ".yaml", "\n")
    stem = path.name.split(".")[0] or "hidden"
    path.rename(path.with_name(stem + rng.choice(endings)))


def add_stray_file(folder: Path, rng: random.Random) -> None:
    """Another program has left a file."""
    (_a_file(folder, rng).parent / rng.choice(STRAY)).write_bytes(rng.randbytes(20))


def duplicate(folder: Path, rng: random.Random) -> None:
    """A file is there twice."""
    path = _a_file(folder, rng)
    shutil.copyfile(path, path.with_name(rng.choice(("copy_", "d0_", "A")) + path.name))


def link_in_a_circle(folder: Path, rng: random.Random) -> None:
    """A link leads to itself."""
    path = _a_file(folder, rng)
    path.unlink()
    path.symlink_to(path.name)


def link_to_nothing(folder: Path, rng: random.Random) -> None:
    """The disk that a link leads to is not there."""
    path = _a_file(folder, rng)
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def link_to_the_folder_above(folder: Path, rng: random.Random) -> None:
    """A folder lies in itself."""
    (_a_file(folder, rng).parent / "above").symlink_to(folder, target_is_directory=True)


def forbid(folder: Path, rng: random.Random) -> None:
    """A file may not be read; root may read it all the same."""
    _a_file(folder, rng).chmod(0)


def change_json(folder: Path, rng: random.Random) -> None:
    """Somebody has edited a JSON file."""
    found = [path for path in files_in(folder) if path.suffix == ".json"]
    if not found:
        return
    path = rng.choice(found)
    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # another mutation was here
        return
    place = content
    while isinstance(place, dict) and place:
        key = rng.choice(sorted(place))
        if not isinstance(place[key], dict) or rng.random() < 0.4:
            _change_key(place, key, rng)
            break
        place = place[key]
    else:
        content = rng.choice(VALUES)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"))
    path.write_text(json.dumps(content), encoding=encoding)


def _change_key(place: dict[str, Any], key: str, rng: random.Random) -> None:
    way = rng.randrange(4)
    if way == 0:
        del place[key]
    elif way == 1:
        place[key.upper() + "_"] = place.pop(key)
    elif way == 2 and isinstance(place[key], list) and place[key]:
        place[key] = place[key][:-1] + [rng.choice(VALUES)]
    else:
        place[key] = rng.choice(VALUES)


MUTATIONS: tuple[Mutation, ...] = (
    delete,
    delete_folder,
    truncate,
    empty,
    overwrite_with_noise,
    flip_bits,
    replace_by_folder,
    replace_folder_by_file,
    exchange,
    rename,
    add_stray_file,
    duplicate,
    link_in_a_circle,
    link_to_nothing,
    link_to_the_folder_above,
    forbid,
    change_json,
    change_json,
    change_json,
    change_json,
)


def mutate(folder: Path, rng: random.Random) -> list[str]:
    """Damage a folder in one to three ways; their names."""
    done = []
    for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 1, 2, 3))):
        if folder.is_dir() and files_in(folder):
            with suppress(OSError):  # what an earlier mutation has made is in the way
                mutation(folder, rng)
                done.append(mutation.__name__)
    return done
