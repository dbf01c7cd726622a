"""Batch -> Vectors: one Protocol, one file a runtime. Nothing is imported until a variant asks for it."""

from __future__ import annotations

from typing import Protocol

from embedship.bundle import Bundle, Machine, Precision, Runtime, Variant
from embedship.codes import Vectors
from embedship.errors import MismatchError
from embedship.plan import Batch

CPU = "cpu"  # all of this process's cores; another device has a number, as "cuda:0"


class Engine(Protocol):
    @property
    def streams(self) -> int:
        """How many threads may call `encode` at once and each get a core."""

    @property
    def precision(self) -> Precision:
        """The arithmetic this machine really runs."""

    def encode(self, batch: Batch) -> Vectors:
        """Return (n, dim) float32 rows in the order of the batch; unit rows if the pipeline normalises.

        Thread-safe. Raises EngineError if the runtime fails; nothing is retried here.
        """

    def close(self) -> None: ...


def open_engine(bundle: Bundle, variant: str, streams: int | None = None, device: str = CPU) -> Engine:
    """Load one variant with one thread a stream (default: a stream a core).

    Raises MissingExtra if its runtime is not installed, MismatchError if it was not verified for this machine's
    instructions or does not run on `device`, EngineError if the runtime cannot load it.
    """
    from embedship import hardware

    chosen = bundle.variant(variant)
    if device != CPU:
        raise MismatchError(
            f"variant {variant} ({chosen.runtime}) runs on CPUs, and not on {device}: leave --devices at auto, or name "
            "CPUs (--devices cpu:0,cpu:1)"
        )
    require(chosen, hardware.machine())
    streams = streams or hardware.streams()
    inputs = bundle.manifest.pipeline.inputs
    match chosen.runtime:
        case Runtime.ONNXRUNTIME:
            from embedship.engine.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(bundle.path(chosen.path), inputs, chosen.weights, streams)
        case Runtime.OPENVINO:
            from embedship.engine.openvino import OpenVinoEngine

            return OpenVinoEngine(bundle.path(chosen.path), inputs, chosen.weights, streams)


def require(variant: Variant, machine: Machine) -> None:
    """Raise MismatchError unless `machine` computes of this variant what the export verified."""
    if not machine.meets(variant.needs):
        raise MismatchError(
            f"variant {variant.name} ({variant.path}) is for {' or '.join(variant.needs)}, and this machine "
            f"({machine.cpu}) has {', '.join(machine.isa) or 'none of these'}: its vectors would be wrong here, or far "
            "too slow. Take another variant (--variant), or export again with a --target that this machine meets"
        )


def feed(batch: Batch, inputs: tuple[str, ...]) -> dict[str, object]:
    """The named graph inputs of a batch. Texts come alone, never in pairs, so token types are all zero."""
    known = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return {name: known[name] if name in known else batch.input_ids * 0 for name in inputs}
