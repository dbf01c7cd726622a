"""Measurements of a bundle's variants: parity, batch invariance, batch shapes, vector codes and retrieval."""

from __future__ import annotations

from embedship.bundle.record import ManifestRecord, VectorCode
from embedship.codes import Int8Scale
from embedship.errors import UsageError


class ParityReport(ManifestRecord, frozen=True, omit_defaults=True):
    """Cosines of the exported vectors to the checkpoint's, over `texts` texts of at most `longest` tokens.

    `overlap` compares the 10 nearest other probes of each text: the mean share that both models have in common.
    `length` is the worst ratio of a vector's length to the checkpoint's, smaller over larger. A cosine ignores length.

    Texts of a few tokens are reported separately, in the `short_` fields: int8 has larger errors there.

    For a re-ranker, the cosines are the likeness of the scores of `texts` pairs (see likeness.py), `overlap` is the
    share of pairs of passages that are in the checkpoint's order for their query, and `length` is the ratio of the
    spreads of the scores.
    """

    texts: int
    longest: int
    minimum: float
    mean: float
    overlap: float
    length: float
    worst_text: str
    short_texts: int = 0
    short_minimum: float | None = None  # None where no short texts were compared
    short_mean: float | None = None
    short_worst_text: str = ""


class InvarianceReport(ManifestRecord, frozen=True):
    """The batch-invariance certificate: the worst cosine between a text encoded alone and in another batch.

    shuffled      in a batch of random texts of other lengths
    over_padded   padded far beyond the longest text of its batch
    other_side    padded on the left, although these engines pad on the right. None if no tool makes such a batch: the
                  checkpoint's own tokenizer pads on the right, or its vectors depend on the side
    """

    texts: int
    shuffled: float
    over_padded: float
    other_side: float | None
    worst_text: str

    @property
    def worst(self) -> float:
        """The lowest of the three, or NaN if any of them is NaN."""
        figures = [f for f in (self.shuffled, self.over_padded, self.other_side) if f is not None]
        return min(figures) if all(figure == figure for figure in figures) else float("nan")


class WrongShape(ManifestRecord, frozen=True):
    """A batch shape (rows, width) with wrong vectors, and the lowest likeness to the vectors of other shapes."""

    rows: int
    width: int
    likeness: float


class ShapeCertificate(ManifestRecord, frozen=True):
    """The shape certificate of a variant: the batch shapes with wrong vectors, among all `checked` possible shapes.

    It is valid for one plan, runtime, instruction set, kind of device and number of streams (see embedship.shapes).
    `worst` is the lowest likeness between right shapes.
    """

    runtime: str  # name and version
    isa: tuple[str, ...]
    device: str
    streams: int
    plan: str
    checked: int
    wrong: tuple[WrongShape, ...]
    worst: float
    seconds: float


class ParityFloors(ManifestRecord, frozen=True, omit_defaults=True):
    """What the gate demands of a precision: the lowest accepted values of `ParityReport`."""

    minimum: float
    mean: float
    overlap: float
    length: float
    short: float | None = None  # floor of `short_minimum`; None: the same as `minimum`


class MachineInfo(ManifestRecord, frozen=True):
    """The machine of a measurement."""

    cpu: str
    isa: tuple[str, ...]
    cores: float

    def meets(self, needs: tuple[str, ...]) -> bool:
        """Return whether the machine has any of these instruction sets, or none is needed.

        They are alternatives: with any of them, the file gives the verified vectors. With none of them, it does not.
        """
        return not needs or not set(needs).isdisjoint(self.isa)

    def same_instructions(self, other: MachineInfo) -> bool:
        """Return whether both machines have the same instruction sets."""
        return set(self.isa) == set(other.isa)


class VectorCodes(ManifestRecord, frozen=True):
    """How indexes and clients encode this model's vectors compactly: fitted once on the calibration texts, then frozen.

    A code stores the vector after truncation and normalisation. Normalising half of a unit vector again makes its
    components larger by a third or more, so each Matryoshka dimension has its own int8 scale.
    """

    int8: tuple[Int8Scale, ...]  # one per dimension of the pipeline
    clipped: float  # share of components of held-out texts outside the int8 ranges, at full dimension
    binary_threshold: float
    rescore: int  # candidates per wanted hit, when sign bits are searched first and int8 codes rank them again
    # Share of the 10 exact nearest neighbours that this two-step search finds; None if no binary code is possible.
    rescored_recall: float | None
    documents: int  # measured over this number of documents: more documents may need more candidates

    def scale(self, dimension: int) -> Int8Scale:
        """Return the int8 scale of a dimension. Raises UsageError if the bundle has none for it."""
        scales = {scale.dimension: scale for scale in self.int8}
        if dimension not in scales:
            known = ", ".join(map(str, scales))
            raise UsageError(f"this model has no int8 code for {dimension} dimensions; there is one for {known}")
        return scales[dimension]


class RetrievalResult(ManifestRecord, frozen=True):
    """Retrieval metrics of one variant, dimension and code."""

    variant: str  # or "checkpoint"
    dimension: int
    code: VectorCode
    rescored: bool
    bytes_per_vector: int  # of the code that is searched
    metrics: dict[str, float]


class RetrievalReport(ManifestRecord, frozen=True):
    """Retrieval on the user's own queries by exact search.

    It has the checkpoint and each variant at full dimension in float32, and the chosen variant at every Matryoshka
    dimension in every code. `embedship evaluate` measures the other combinations.
    """

    dataset: str
    queries: int
    documents: int
    max_recall_drop: float | None  # largest accepted loss of recall@10; a variant that loses more is never chosen
    measured: tuple[RetrievalResult, ...]

    def result_of(self, variant: str) -> RetrievalResult:
        """Return the result of a variant, or of "checkpoint", at full dimension in float32."""
        return next(row for row in self.measured if row.variant == variant and row.code is VectorCode.FLOAT32)

    def drop(self, variant: str) -> float:
        """Return the checkpoint's recall@10 minus the variant's, or NaN if unknown, which fails every limit."""
        known = {row.variant for row in self.measured}
        if variant not in known:
            return float("nan")
        return self.result_of("checkpoint").metrics["recall@10"] - self.result_of(variant).metrics["recall@10"]


# The codes of a re-ranker: scores are not stored.
NO_CODES = VectorCodes(int8=(), clipped=0.0, binary_threshold=0.0, rescore=1, rescored_recall=None, documents=0)
