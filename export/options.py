"""ExportOptions: the options of an export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from embedship.bundle import Objective, ParityFloors, Precision, Task
from embedship.export.gates import parity
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of an export, with the defaults of the command."""

    task: Task = Task.EMBED
    texts: Path | None = None
    queries: Path | None = None
    evaluation: Path | None = None
    evaluation_title: bool = False
    max_recall_drop: float | None = None
    objective: Objective = Objective.THROUGHPUT
    variants: tuple[str, ...] = ()
    floors: dict[Precision, ParityFloors] = field(default_factory=lambda: dict(parity.FLOORS))
    name: str | None = None
    seed: int = 0
    force: bool = False
    base: str | None = None
    pooling: str | None = None
    normalize: bool = False
    allow_pickle: tuple[str, ...] = ()
    trust_remote_code: str | None = None
    target: HardwareTarget = HardwareTarget.AUTO
    converter: GraphConverter = GraphConverter.EMBEDSHIP
    sign: Path | None = None
    dimensions: tuple[int, ...] = ()  # Matryoshka dimensions; empty: those that the checkpoint states
    truncate_dim: int | None = None  # dimension of every vector; None: the checkpoint's own
    skip_failed: bool = False  # leave out named variants that fail
