"""Processors of images against the vision towers that their output goes into."""

from typing import Any

from hpo.errors import ModelError

PATCHES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Settings of the image processor, and those of the vision tower that they must equal."""


def check_squares(name: str, vision: Any, images: Any) -> None:
    """Holds that images get the size that the vision tower has positions for.

    Raises:
        ModelError: they do not.
    """
    side, size = vision.image_size, dict(images.size)
    if (size.get("height"), size.get("width")) != (side, side) or not images.do_resize:
        raise ModelError(
            f"model {name}: its processor makes images of {size}, and the vision tower takes "
            f"{side} x {side} pixels; use the processor that belongs to the weights"
        )


def check_patches(name: str, vision: Any, processor: Any) -> None:
    """Holds that the processor cuts images into the tower's patches, and has a chat template.

    Raises:
        ModelError: it does not.
    """
    images, remedy = processor.image_processor, "use the processor that belongs to the weights"
    for own, of_tower in PATCHES.items():
        if getattr(images, own) != getattr(vision, of_tower):
            raise ModelError(
                f"model {name}: its processor has {own} = {getattr(images, own)}, and its vision "
                f"tower {of_tower} = {getattr(vision, of_tower)}; {remedy}"
            )
    if not processor.chat_template:
        raise ModelError(
            f"model {name}: it has no chat template (chat_template.jinja), which says how a "
            f"question is asked; {remedy}"
        )


def rendered(processor: Any, chat: list[dict[str, Any]], **options: Any) -> str:
    """A chat as the processor's template writes it.

    Raises:
        ModelError: the template is broken, or refuses a question about an image with its answer.
    """
    try:
        text: str = processor.apply_chat_template(chat, **options)
    except Exception as error:  # a template is a program: it can fail in any way
        raise ModelError(
            f"its chat template cannot write a question about an image ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); use the one that belongs to the weights"
        ) from error
    return text
