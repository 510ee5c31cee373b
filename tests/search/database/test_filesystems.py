"""Which file system a path lies on, by a mount table."""

from pathlib import Path

import pytest

from hpo.errors import StorageError
from hpo.search.database import filesystems
from hpo.search.database.filesystems import network_file_system, network_of
from hpo.search.database.storage import connect
from hpo.search.database.urls import parse_url

TABLE = r"""
/dev/vda / ext4 rw 0 0
proc /proc proc rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
nas:/home /home nfs4 rw,vers=4.2 0 0
/dev/nvme0n1 /home/scratch xfs rw 0 0
//nas/share /mnt/my\040share cifs rw 0 0
mds:/lustre /lustre lustre rw 0 0
overlay /over overlay rw 0 0
me@host:/ /ssh fuse.sshfs rw 0 0
/dev/vdb /twice ext4 rw 0 0
nas:/twice /twice nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/hpo.db", "nfs4"),
        ("/home", "nfs4"),
        ("/mnt/my share/hpo.db", "cifs"),
        ("/lustre/project/runs/hpo.db", "lustre"),
        ("/ssh/hpo.db", "fuse.sshfs"),
        ("/twice/hpo.db", "nfs"),
        ("/hpo.db", ""),
        ("/homes/hpo.db", ""),
        ("/home/scratch/hpo.db", ""),
        ("/dev/shm/hpo.db", ""),
        ("/over/hpo.db", ""),
        ("/mnt/my/hpo.db", ""),
    ],
)
def test_the_innermost_mount_decides(path, kind):
    assert network_of(Path(path), TABLE) == kind


def test_a_mount_table_that_says_nothing_is_no_network():
    assert network_of(Path("/home/hpo.db"), "") == ""
    assert network_of(Path("/home/hpo.db"), "nonsense\n\n/home") == ""


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Makes this machine believe that a folder is a mount of that kind."""

    def mount(folder, kind):
        table = tmp_path / "mounts"
        table.write_text(f"/dev/vda / ext4 rw 0 0\nnas:/x {folder} {kind} rw 0 0\n")
        monkeypatch.setattr(filesystems, "MOUNTS", table)

    return mount


def test_a_link_leads_to_the_file_system_of_its_target(tmp_path, mounted):
    (tmp_path / "net").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "net")
    mounted(tmp_path / "net", "nfs")
    assert network_file_system(tmp_path / "link" / "hpo.db") == "nfs"
    assert network_file_system(tmp_path / "hpo.db") == ""


def test_a_machine_without_a_mount_table_has_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "none")
    assert network_file_system(tmp_path) == ""


def test_a_file_on_a_network_file_system_is_refused(tmp_path, mounted):
    mounted(tmp_path, "nfs4")
    with pytest.raises(StorageError) as caught:
        connect(parse_url(f"sqlite:///{tmp_path}/hpo.db"))
    for word in ("network file system (nfs4)", "local disk", "PostgreSQL"):
        assert word in str(caught.value)
    assert not (tmp_path / "hpo.db").exists()


def test_a_file_on_a_local_disk_is_welcome(tmp_path, mounted):
    mounted(tmp_path, "ext4")
    connect(parse_url(f"sqlite:///{tmp_path}/hpo.db")).engine.dispose()
