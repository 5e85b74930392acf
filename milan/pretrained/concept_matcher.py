"""A stand-in for vision-language models that finds the concept nearest to the images of a question."""

import json
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from milan.diorama.concept_texts import list_concept_texts
from milan.errors import BadInput
from milan.pretrained.chat_images import decode_picture
from milan.pretrained.embedder import embed_texts, load_embedder
from milan.pretrained.llm import Llm, Question
from milan.storage.files import content_key

NOTE = (
    "no vision-language model, but a program that compares the images with a list of {} concepts by the image-text"
    " model trained on Diorama (llm: diorama); it reads no words and can say nothing that is not on the list"
)
CONTRAST = "contrast"  # the text of an item whose image does not activate the unit; all others do
ALTERNATIVES = 3


class ConceptMatcher(Llm):
    """Answers questions of task "describe" with concepts of Diorama, by the image-text model trained on it.

    The score of a concept is its mean cosine with the images minus its mean cosine with the contrast images; confidence
    is the softmax over all concepts of score times the model's logit scale.

    Args:
        device: device of the image-text model.

    Raises:
        MissingEvidence: the image-text model was not built.
    """

    name = "diorama"
    is_cacheable = False
    reads_images = True

    def __init__(self, *, device: str = "cpu"):
        self._embedder = load_embedder("diorama", device=device)
        self._texts = list_concept_texts()
        self.note = NOTE.format(len(self._texts))
        self.key = content_key(llm="diorama", embedder=self._embedder.key, texts=self._texts)

    def answer(self, question: Question, attempt: int = 0) -> str:
        """Return a JSON object with the concept of highest score, alternatives and their confidences.

        Raises:
            BadInput: the question's task is not "describe".
        """
        if question.task != "describe":
            raise BadInput("llm diorama reads only images; give phrases, openai:MODEL or hf:MODEL for texts")
        scores = self._score_concepts(question.images, [text for text, _ in question.items])
        confidences, places = (scores * (self._embedder.scale or 1.0)).softmax(0).topk(1 + ALTERNATIVES)
        candidates = [
            {"description": self._texts[place], "confidence": round(confidence, 4)}
            for place, confidence in zip(places.tolist(), confidences.tolist(), strict=True)
        ]
        return json.dumps(
            {**candidates[0], "alternatives": candidates[1:], "nothing_in_common": bool(scores.max() <= 0)}
        )

    @cached_property
    def _text_vectors(self) -> Float[Tensor, "concepts features"]:
        return embed_texts(self._embedder, self._texts)

    def _score_concepts(self, images: Sequence[bytes], items: Sequence[str]) -> Float[Tensor, " concepts"]:
        pictures = [torch.from_numpy(decode_picture(image)).permute(2, 0, 1)[None] for image in images]
        # Images may differ in size.
        vectors = torch.cat([self._embedder.encode_images(picture) for picture in pictures])
        cosines = vectors @ self._text_vectors.T
        contrast = torch.tensor([text == CONTRAST for text in items])
        return cosines[~contrast].mean(0) - (cosines[contrast].mean(0) if contrast.any() else 0.0)
