"""ProbeSet: the texts (or pairs) that the gates try, and the checkpoint's own rows for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export import probe_pairs, probe_texts
from embedship.export.checkpoint.embedder import EmbedderCheckpoint, embedding
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.gates import batch_invariance
from embedship.export.probe_texts import shown
from embedship.golden_texts import REAL, GoldenTexts
from embedship.tokens import Text, Tokenizer

# The batch-invariance certificate uses this many real texts, in addition to the adversarial ones.
_INVARIANCE_REAL = 16
# This many texts are also compared after each prompt that is not pooled.
_PROMPTED = 16


class PromptedProbes(NamedTuple):
    """Texts after a prompt that is not pooled, and the checkpoint's (n, dim) float32 rows for them."""

    prompt: str
    texts: Sequence[str]
    vectors: Vectors


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSet:
    """Probe texts (or pairs), adversarial ones first, and the checkpoint's own (n, dim) float32 rows for them.

    `short` are texts of a few tokens with (m, dim) `short_vectors`; they are judged separately. `longest` is the length
    of the longest text in tokens. `either_side`: exports must also give right vectors with padding on the left.
    """

    texts: list[Text]
    vectors: Vectors
    adversarial_count: int
    longest: int
    either_side: bool
    short: Sequence[Text] = ()
    short_vectors: Vectors | None = None
    prompted: Sequence[PromptedProbes] = ()  # only for a model that does not pool its prompts

    @classmethod
    def make(
        cls, checkpoint: SourceModel, tokenizer: Tokenizer, real: Sequence[Text], short: Sequence[Text] = ()
    ) -> ProbeSet:
        """Build the probes: adversarial texts, then `real` texts with the model's prompts in turn, and short texts.

        Raises GateError if the checkpoint itself gives NaN or infinity, or if its vectors depend on the batch.
        """
        adversarial = probe_pairs.adversarial_pairs(tokenizer, checkpoint.pipeline)
        prompts = ["", *(prompt for prompt in checkpoint.pipeline.prompts.values() if prompt)]
        prompted = [prompts[i % len(prompts)] + text if isinstance(text, str) else text for i, text in enumerate(real)]
        fitting = [_encodable_texts(tokenizer, texts) for texts in (adversarial, prompted)]
        texts = fitting[0] + fitting[1]
        vectors = checkpoint.encode(texts)
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise GateError(f"the checkpoint itself gives NaN or infinity, for {shown(texts[row])}: nothing to export")
        count = len(fitting[0]) + _INVARIANCE_REAL
        batch_invariance.require_checkpoint_invariant(checkpoint, texts[:count])
        # A cross-encoder reads its answer at one position and no server pads it on the left, so it is not tested there.
        either_side = isinstance(checkpoint, EmbedderCheckpoint) and batch_invariance.meets_left_padding(
            checkpoint, texts[:count], vectors[:count]
        )
        short_texts = _encodable_texts(tokenizer, short)
        short_vectors = checkpoint.encode(short_texts) if short_texts else None
        longest = max(tokenizer(texts).lengths)
        unpooled = _prompted(checkpoint, [text for text in real if isinstance(text, str)])
        return cls(texts, vectors, len(fitting[0]), longest, either_side, short_texts, short_vectors, unpooled)

    @property
    def all_texts(self) -> list[Text]:
        """The texts, and those after a prompt that is not pooled."""
        return [*self.texts, *(each.prompt + text for each in self.prompted for text in each.texts)]

    @property
    def all_vectors(self) -> Vectors:
        """The checkpoint's rows for `all_texts`."""
        return np.concatenate([self.vectors, *(each.vectors for each in self.prompted)])

    def encode(self, encoder: Encoder) -> Vectors:
        """Return the encoder's rows for `all_texts`."""
        groups: list[tuple[Sequence[Text], str]] = [(self.texts, ""), *((p.texts, p.prompt) for p in self.prompted)]
        return np.concatenate([encoder.encode_tokens(encoder.tokenizer(*group)) for group in groups])

    @property
    def invariance_texts(self) -> list[Text]:
        """The adversarial texts and some real ones, for the batch-invariance certificate."""
        return self.texts[: self.adversarial_count + _INVARIANCE_REAL]

    def golden(self, tokenizer: Tokenizer) -> GoldenTexts:
        """Return the adversarial texts and the first real ones, with their token ids."""
        count = self.adversarial_count + REAL
        texts = self.texts[:count]
        return GoldenTexts(texts, tokenizer(texts).ids, self.vectors[:count])


def _prompted(checkpoint: SourceModel, texts: Sequence[str]) -> list[PromptedProbes]:
    """Return some texts with each prompt, for a model that does not pool its prompts; else an empty list."""
    if checkpoint.pipeline.pools_prompts:
        return []
    prompts = {prompt for prompt in checkpoint.pipeline.prompts.values() if prompt}
    some = texts[:_PROMPTED]
    return [PromptedProbes(each, some, embedding(checkpoint).encode(some, each)) for each in sorted(prompts)]


def _encodable_texts(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Text]:
    """Drop texts without tokens, which have no vector. Truncate very long texts to LONGEST tokens to bound memory.

    A very long pair is dropped.
    """
    cut = [
        probe_texts.truncate(tokenizer, text, probe_texts.LONGEST) if isinstance(text, str) else text for text in texts
    ]
    return [text for text, n in zip(cut, tokenizer(cut).lengths, strict=True) if 0 < n <= probe_texts.LONGEST]
