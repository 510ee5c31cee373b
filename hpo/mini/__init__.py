"""The embedded defaults: tiny pretrained models and the drawn data that they learn from.

`captioner/` is an InstructBLIP for aerial scenes, made by `python -m hpo.mini.pretrain`;
`classifier/` is a Llama for messages of customers, made by `python -m
hpo.mini.pretrain_classifier`; `answerer/` is a Qwen2-VL for questions about pictures, made by
`python -m hpo.mini.pretrain_answerer`. All are directories as `from_pretrained` wants them.
"""

from pathlib import Path

ANSWERER = Path(__file__).parent / "answerer"
CAPTIONER = Path(__file__).parent / "captioner"
CLASSIFIER = Path(__file__).parent / "classifier"
