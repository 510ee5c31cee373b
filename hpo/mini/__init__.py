"""The embedded default: a tiny pretrained InstructBLIP and the aerial scenes it learns from.

`captioner/` is a directory as `from_pretrained` wants it, made by `python -m hpo.mini.pretrain`.
"""

from pathlib import Path

CAPTIONER = Path(__file__).parent / "captioner"
