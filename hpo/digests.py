"""SHA-256 digests of whole files, cached while the files stay as they are.

A file is unchanged while device, inode, size, modification and change time are the same; links are
followed. SHA-256 is 1.8 GB/s a core where the processor has instructions for it, twice as fast as
BLAKE2b, and files are hashed in parallel, as hashlib releases the interpreter's lock.

The cache has one JSON file for each folder below $XDG_CACHE_HOME/hpo/digests (~/.cache without
it), with a checksum in its first line, replaced as a whole: processes and hosts that share a home
can lose entries to each other, but never read half a file. One that is damaged is ignored, and a
home that cannot be written means no cache.
"""

import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hpo.errors import DataError
from hpo.units import show_size

THREADS = min(16, os.cpu_count() or 1)
SETTLED_NS = 2_000_000_000  # the coarsest time stamps in use (FAT): a later write may have the same
WORTH_BYTES = 16 << 20  # less is read again sooner than a cache is written
LONG_BYTES = 4 << 30  # from here on it takes seconds, and is announced
UNUSED_S = 90 * 86_400.0  # after which the cache of a folder is removed

Stamp = tuple[int, int, int, int, int]
Entries = dict[str, tuple[Stamp, str]]
"""Stamp and digest of a folder's files by name."""


@dataclass(frozen=True, kw_only=True)
class _Hashed:
    digest: str
    stamp: Stamp
    settled: bool
    """Whether any later write is sure to change the stamp."""


def file_digests(
    paths: Iterable[Path], *, say: Callable[[str], None] = lambda text: None
) -> dict[Path, str]:
    """SHA-256 of each file in hexadecimal, read where the cache does not know it.

    Args:
        say: receives one line if so much must be read that it takes long.

    Raises:
        OSError: a file is not there or cannot be read.
        DataError: a path is not a file, or is being written.
    """
    stamps = {path: _stamp(path.stat()) for path in dict.fromkeys(paths)}
    digests = {path: found for path, stamp in stamps.items() if (found := _known(path, stamp))}
    unknown = [path for path in stamps if path not in digests]
    size = sum(stamps[path][2] for path in unknown)
    if size >= LONG_BYTES:
        say(f"reading {show_size(size)} of model and data files once, to recognise changes later")
    for path, hashed in zip(unknown, _hash_all(unknown), strict=True):
        digests[path] = hashed.digest
        if hashed.settled:
            _remember(path, hashed)
    if size >= WORTH_BYTES:
        _store(unknown)
    return digests


def file_digest(path: Path) -> str:
    """SHA-256 of one file, from the cache where that knows it; it does not write the cache.

    Raises:
        OSError, DataError: as `file_digests`.
    """
    known = _known(path, _stamp(path.stat()))
    if known is not None:
        return known
    hashed = _hash(path)
    if hashed.settled:
        _remember(path, hashed)
    return hashed.digest


def _stamp(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _hash_all(paths: list[Path]) -> list[_Hashed]:
    """In parallel; the largest begin first, so that none is left alone at the end."""
    largest_first = sorted(paths, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(THREADS) as threads:
        hashed = dict(zip(largest_first, threads.map(_hash, largest_first), strict=True))
    return [hashed[path] for path in paths]


def _hash(path: Path) -> _Hashed:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
        raise DataError(f"{path}: is not a file; put a file in its place")
    with path.open("rb", buffering=0) as file:
        now, before = time.time_ns(), os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path}: is being written; start again when the file is complete")
    latest = max(after.st_mtime_ns, after.st_ctime_ns)
    settled = _stamp(before) == _stamp(after) and now - latest > SETTLED_NS
    return _Hashed(digest=digest, stamp=_stamp(after), settled=settled)


def _known(path: Path, stamp: Stamp) -> str | None:
    file = _cache_file(path.parent)
    if file is None:
        return None
    known = _entries(file).get(path.name)
    return known[1] if known is not None and known[0] == stamp else None


def _remember(path: Path, hashed: _Hashed) -> None:
    file = _cache_file(path.parent)
    if file is not None:
        _entries(file)[path.name] = (hashed.stamp, hashed.digest)


def _store(paths: list[Path]) -> None:
    """Writes the caches of the folders of these files; where that fails, none."""
    for folder in {path.parent for path in paths}:
        file = _cache_file(folder)
        if file is not None:
            with suppress(OSError):
                _write(file, {**_read(file), **_entries(file)})


@lru_cache(maxsize=256)
def _cache_file(folder: Path) -> Path | None:
    """Of this host: device numbers of another have other meanings. None without a home."""
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        home = given if given.is_absolute() else Path.home() / ".cache"
        place = f"{socket.gethostname()}\n".encode() + os.fsencode(folder.absolute())
    except (OSError, RuntimeError):
        return None
    name = hashlib.sha256(place).hexdigest()[:32]
    return home / "hpo" / "digests" / f"{name}.json" if home.is_absolute() else None


@lru_cache(maxsize=256)
def _entries(file: Path) -> Entries:
    """The cache of a folder in this process."""
    with suppress(OSError):
        os.utime(file)  # it was used
    return _read(file)


def _read(file: Path) -> Entries:
    """What a cache file says; nothing where it is not there, damaged or not understood."""
    try:
        checksum, _, text = file.read_text().partition("\n")
        if checksum != hashlib.sha256(text.encode()).hexdigest():
            return {}
        rows = json.loads(text)
        return {name: (tuple(stamp), str(digest)) for name, (stamp, digest) in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write(file: Path, entries: Entries) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    for other in file.parent.iterdir():
        if time.time() - other.stat().st_mtime > UNUSED_S:
            other.unlink(missing_ok=True)
    text = json.dumps(entries)
    scratch = file.with_suffix(f".{os.getpid()}.writing")
    try:
        scratch.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
