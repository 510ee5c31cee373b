"""Digests of whole files: right whatever happens to them, and cached while nothing does."""

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from hpo import digests
from hpo.digests import WORTH_BYTES, file_digest, file_digests
from hpo.errors import DataError

SIZE = WORTH_BYTES + 5


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cache, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "hpo" / "digests"
    forget()


@pytest.fixture
def later(monkeypatch):
    """A clock that is ahead, so that files written just now count as settled."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60 * 10**9)


@pytest.fixture
def file(tmp_path):
    """A file large enough for the cache."""
    path = tmp_path / "weights" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(bytes(SIZE))
    return path


def forget():
    """Has this process begin like a new one."""
    digests._entries.cache_clear()
    digests._cache_file.cache_clear()


def start(*paths):
    """Digests as the next command finds them."""
    forget()
    found = file_digests(paths)
    assert found == {path: file_digest(path) for path in paths}
    return found[paths[0]]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put_byte(path, place=SIZE // 2, byte=b"!"):
    with path.open("r+b") as file:
        file.seek(place)
        file.write(byte)


def mark(cache):
    """Puts another digest into the only cache file: who finds it has not read the file itself."""
    (stored,) = cache.iterdir()
    rows = json.loads(stored.read_text().partition("\n")[2])
    for row in rows.values():
        row[1] = "from the cache"
    text = json.dumps(rows)
    stored.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


@pytest.mark.parametrize("size", [0, 1, 1 << 18, SIZE])
def test_a_digest_is_the_sha256_of_the_whole_file(tmp_path, size):
    path = tmp_path / "one"
    path.write_bytes(os.urandom(size))
    assert start(path) == sha256(path)


def test_a_second_start_does_not_read_what_has_not_changed(file, cache, later):
    assert start(file) == sha256(file)
    mark(cache)
    assert start(file) == "from the cache"


def same_mtime(path):
    """One byte in the middle, size and time of modification as before."""
    before = path.stat()
    put_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed_over(path):
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"?" * SIZE)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [put_byte, same_mtime, renamed_over])
def test_every_change_is_noticed(file, cache, later, change):
    before = start(file)
    mark(cache)
    change(file)
    assert start(file) == sha256(file) != before


@pytest.mark.parametrize("change", [put_byte, same_mtime])
def test_links_are_followed(tmp_path, file, cache, later, change):
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(file)
    assert start(link) == sha256(file)
    mark(cache)
    assert start(link) == "from the cache"
    change(file)
    assert start(link) == sha256(file)
    other = tmp_path / "blob"
    other.write_bytes(b"?" * SIZE)
    link.unlink()
    link.symlink_to(other)
    assert start(link) == sha256(other)


def test_a_file_of_just_now_is_not_cached_as_it_may_change_within_its_time_stamp(
    file, cache, monkeypatch
):
    written = file.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: written + 10**9)
    start(file)
    assert not any(json.loads(path.read_text().split("\n")[1]) for path in cache.iterdir())


@pytest.mark.parametrize("rubbish", ["", "{", "\n[1]", "\x00" * 9, None])
def test_a_damaged_cache_is_ignored_and_written_again(file, cache, later, rubbish):
    start(file)
    (stored,) = cache.iterdir()
    whole = stored.read_text()
    stored.write_text(whole.replace('"model', '"nodel') if rubbish is None else rubbish)
    assert start(file) == sha256(file)
    assert stored.read_text() == whole


def test_a_checksum_over_rubbish_does_not_help(file, cache, later):
    start(file)
    (stored,) = cache.iterdir()
    for text in ("[]", '{"model.safetensors": 1}', '{"model.safetensors": [1, 2]}', "[" * 100_000):
        stored.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        assert start(file) == sha256(file)


@pytest.mark.parametrize("home", ["file/below", "relative", "missing"])
def test_a_home_that_cannot_be_written_means_no_cache(tmp_path, file, monkeypatch, later, home):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", home if home == "relative" else str(tmp_path / home))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert start(file) == sha256(file)
    assert start(file) == sha256(file)


def test_small_files_leave_no_cache_behind(tmp_path, cache, later):
    path = tmp_path / "small"
    path.write_text("small")
    assert start(path) == sha256(path)
    assert not cache.exists()


def test_several_processes_at_once_leave_a_cache_that_is_right(tmp_path, file, cache):
    others = [file.with_name(f"shard-{index}") for index in range(4)]
    for index, path in enumerate(others):
        path.write_bytes(bytes([index]) * SIZE)
    code = (
        "import sys, time; from pathlib import Path; from hpo.digests import file_digests;"
        "now = time.time_ns; time.time_ns = lambda: now() + 60 * 10**9;"
        "file_digests(map(Path, sys.argv[1:]))"
    )
    commands = [[sys.executable, "-c", code, str(file), str(path)] for path in others]
    for process in [subprocess.Popen(command) for command in commands]:
        assert process.wait(60) == 0
    (stored,) = cache.iterdir()
    rows = json.loads(stored.read_text().partition("\n")[2])
    assert rows[file.name][1] == sha256(file)
    assert all(digest == sha256(file.with_name(name)) for name, (_, digest) in rows.items())
    assert start(file, *others) == sha256(file)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "vocab.txt")
    with pytest.raises(DataError, match=r"vocab\.txt: is not a file"):
        file_digests([tmp_path / "vocab.txt"])


def test_a_file_that_is_being_written_is_refused(file, monkeypatch):
    whole = hashlib.file_digest

    def meanwhile(reader, name):
        with file.open("ab") as writer:
            writer.write(b"more")
        return whole(reader, name)

    monkeypatch.setattr(hashlib, "file_digest", meanwhile)
    with pytest.raises(DataError, match="is being written"):
        file_digests([file])


def test_much_to_read_is_announced(file, monkeypatch, later):
    monkeypatch.setattr(digests, "LONG_BYTES", SIZE)
    notes = []
    for _ in range(2):
        forget()
        file_digests([file], say=notes.append)
    assert notes == ["reading 16.0 MiB of model and data files once, to recognise changes later"]
