"""Drawn messages of customers with labels: endless, without a file, the same on every machine."""

import hashlib

from hpo.data.examples import Examples, stratified
from hpo.data.labels import labelled
from hpo.mini.messages import message
from hpo.specs import DataSpec

INBOX = 0  # the seed of the messages: fixed, so that all studies on messages see the same ones
DEFAULT_SAMPLES = 900


def read(data: DataSpec) -> Examples:
    """`data.samples` messages; each label has `data.val_share` of its own in val."""
    count = data.samples or DEFAULT_SAMPLES
    rows = [labelled(f"message {index}", *message(INBOX, index)) for index in range(count)]
    train, val = stratified(rows, data.val_share)
    written = "\n".join(f"{row.prompt}\t{row.target}" for row in rows)
    return Examples(
        train=train,
        val=val,
        total=count,
        digest=f"messages sha256 {hashlib.sha256(written.encode()).hexdigest()[:16]}",
        source="drawn messages",
    )
