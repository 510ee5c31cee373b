"""The Qwen2-VL processor for images alone."""

from typing import Any

from transformers import Qwen2VLProcessor


class StillsProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2VLProcessor without its part for videos, which cannot be had without torchvision.

    It reads and writes what Qwen2VLProcessor does: transformers takes the parts of a processor from
    the arguments of its constructor.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
