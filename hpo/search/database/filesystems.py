"""Which file system a file lies on: SQLite's locks do not hold across a network."""

import os
from pathlib import Path

NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.s3fs",
    "fuse.gcsfuse",
    "fuse.rclone",
    "fuse.juicefs",
    "afs",
    "orangefs",
    "pvfs2",
    "panfs",
    "wekafs",
    "9p",
    "virtiofs",
    "vboxsf",
)
MOUNTS = Path("/proc/self/mounts")


def network_of(path: Path, mounts: str) -> str:
    """The kind of network file system that a path lies on, by the text of a mount table; or none.

    Args:
        path: absolute, links resolved.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")  # a space is written \040
        inside = point == "/" or path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= best:  # the later of two at one place lies on top
            best, kind = len(point), fields[2]
    return kind if kind in NETWORK else ""


def network_file_system(path: Path) -> str:
    """The same for this machine as it is now."""
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        return ""
    return network_of(Path(os.path.realpath(path)), mounts)
