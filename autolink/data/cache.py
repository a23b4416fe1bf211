"""What is derived from data sets and kept between runs: below `$AUTOLINK_CACHE`, by default `~/.cache/autolink`.

Whatever is kept is named by a hash of what it was made from, so that it is made again when that changes.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from autolink.errors import UserError
from autolink.images import shown_size


def cache_folder(kind: str) -> Path:
    """Folder in which one kind of derived files is kept; it may not exist yet.

    Raises:
        UserError: the user has no home, and no other folder was named.
    """
    base = os.environ.get("AUTOLINK_CACHE") or "~/.cache/autolink"
    try:
        return Path(base).expanduser() / kind
    except RuntimeError as error:
        raise UserError(
            f"{base}: no home folder is known here; set AUTOLINK_CACHE to a folder for derived files"
        ) from error


def fingerprint(*identity: object) -> str:
    """A name that changes whenever one of the things does that something was made from."""
    text = "\0".join(map(str, identity))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to tell the user when nothing can be kept in a folder."""
    return UserError(
        f"{folder}: cannot keep derived files there ({error}); free some space, or set AUTOLINK_CACHE to another folder"
    )


def cached_array(kind: str, identity: Sequence[object], make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made once and kept.

    Args:
        kind: the folder of the cache to keep it in.
        identity: everything that the array depends on.
        make: makes it.

    Raises:
        UserError: it cannot be kept.
    """
    folder = cache_folder(kind)
    path = folder / f"{fingerprint(*identity)}.npy"
    if path.is_file():
        return np.load(path)
    array = make()
    partial = folder / f"part-{uuid.uuid4().hex}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(partial, array)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(folder, error) from error
    return array


def image_sizes(folder: Path, files: Sequence[str]) -> np.ndarray:
    """(N, 2) width and height in pixels of upright image files, read from their headers once.

    They are read again where a file has another length: a folder's own time says nothing of files written over.

    Raises:
        UserError: a file is no image, or the sizes cannot be kept.
    """

    def read() -> np.ndarray:
        with ThreadPoolExecutor(max_workers=8) as pool:
            return np.array(list(pool.map(lambda file: shown_size(folder / file), files)), np.int64).reshape(-1, 2)

    lengths = [os.stat(os.path.join(folder, file)).st_size for file in files]
    return cached_array("sizes", (*files, *lengths), read)
