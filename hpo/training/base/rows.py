"""An example with an image as token ids, whatever the base."""

from dataclasses import dataclass

from hpo.data import Example


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """An example as token ids; its pixels are read when a batch needs them."""

    example: Example
    prompt: list[int]
    """With a token for each place of the image."""
    target: list[int]

    @property
    def length(self) -> int:
        """Tokens that the language model sees."""
        return len(self.prompt) + len(self.target)

    @property
    def targets(self) -> int:
        """Tokens to learn, their end included."""
        return len(self.target)

    @property
    def stage(self) -> int:
        """The stage of its example."""
        return self.example.stage
