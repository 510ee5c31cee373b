"""Processors checked against the models that their output goes into."""

from typing import Any

from hpo.errors import ModelError
from hpo.training.base.fit import check_vocabulary
from hpo.training.base.text_ids import TextTokenizer

QFORMER_TOKENIZER = "the Q-Former's tokenizer"

PATCHES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Settings of the image processor, and those of the vision tower that they must equal."""


def check_squares(name: str, vision: Any, images: Any) -> None:
    """Checks that images get the size that the vision tower has positions for.

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
    """Checks that the processor cuts images into the tower's patches, and has a chat template.

    Raises:
        ModelError: it does not.
    """
    images, remedy = processor.image_processor, "use the processor that belongs to the weights"
    for own, of_tower in PATCHES.items():
        cut = getattr(images, own, None)  # another model's processor cuts no patches at all
        if cut != getattr(vision, of_tower):
            raise ModelError(
                f"model {name}: its processor has {own} = {cut}, and its vision "
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


def check_instructblip(
    model: Any,
    processor: Any,
    *,
    captions: TextTokenizer,
    instructions: TextTokenizer,
    qformer: TextTokenizer,
) -> list[str]:
    """Checks both tokenizers of an InstructBLIP against their embeddings and the data.

    Args:
        captions, instructions, qformer: what has encoded the captions, and the instructions for
            the language model and for the Q-Former.

    Returns:
        What there is to say.

    Raises:
        ModelError: one does not fit.
    """
    pads, end = qformer.stock.pad_token_id, processor.tokenizer.eos_token_id
    if end is None:
        raise ModelError(
            "the tokenizer has no end token, so that captions would have no end; name an eos_token "
            "in its tokenizer_config.json"
        )
    if pads != model.config.qformer_config.pad_token_id:
        raise ModelError(
            f"{QFORMER_TOKENIZER} pads with id {pads}, the Q-Former with "
            f"{model.config.qformer_config.pad_token_id}; use the tokenizer that belongs to it"
        )
    image = int(model.config.image_token_id)
    special = {"padding": processor.tokenizer.pad_token_id, "end": end, "image": image}
    words, entered = model.get_input_embeddings(), model.qformer.embeddings.word_embeddings
    name = "the tokenizer"
    return [
        *check_vocabulary(captions, words, what=f"{name} in captions", special=special),
        *check_vocabulary(instructions, words, what=f"{name} in instructions", special=special),
        *check_vocabulary(qformer, entered, what=QFORMER_TOKENIZER, special={"padding": pads}),
    ]
