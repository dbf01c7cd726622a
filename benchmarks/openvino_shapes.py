"""Finds batch shapes that OpenVINO computes incorrectly on this CPU, per setting, and measures each setting's speed.

The graph contains attention only: int8 projections of random vectors (fake-quantised, as NNCF writes them), scores,
softmax, values. It is compared with the same graph in float32, for every number of rows and every width. Each is
measured twice, so that the cache of compiled kernels is full the second time. Usage:

    python benchmarks/openvino_shapes.py --head 32 --widths 4-130
    python benchmarks/openvino_shapes.py --model BUNDLE/openvino/openvino_model_qint8_quantized.xml --exact BUNDLE/openvino/openvino_model.xml
"""  # noqa: E501

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedship import hardware
from embedship.engine.openvino import ov  # its import order matters: see there

Floats = npt.NDArray[np.float32]
Inputs = dict[str, npt.NDArray[np.generic]]
ops = ov.opset13

FLOOR = 0.95  # a correct int8 result of these graphs has a cosine of at least 0.98


class Setting(NamedTuple):
    hint: str
    cache: str
    streams: int


class Wrong(NamedTuple):
    rows: int
    width: int
    stream: int
    cosine: float


def graph(head: int, heads: int, layers: int, quantised: bool, seed: int = 0) -> ov.Model:
    """Return a graph with `layers` of attention with sharp scores: float32 (rows, width, heads * head) in and out."""
    random, size = np.random.default_rng(seed), head * heads
    given = ops.parameter([-1, -1, size], np.float32, name="x")
    x = given
    for _ in range(layers):
        query, key, value = (_heads(_product(x, random, size, quantised), head, heads) for _ in range(3))
        x = ops.add(x, _attended(query, key, value, head, size, quantised))
    return ov.Model([x], [given], "attention")


def _quantised(x: ov.Node, low: float, high: float, levels: int) -> ov.Node:
    ends = [np.float32(each) for each in (low, high, low, high)]
    return ops.fake_quantize(x, *ends, levels)


def _product(x: ov.Node, random: np.random.Generator, size: int, quantised: bool) -> ov.Node:
    weight = (random.standard_normal((size, size)) * 1.5 / np.sqrt(size)).astype(np.float32)
    most = float(np.abs(weight).max())
    constant = ops.constant(weight)
    if quantised:
        x = _quantised(x, -6.0, 6.0 * 127 / 128, 256)
        constant = _quantised(constant, -most, most, 255)
    return ops.matmul(x, constant, False, True)


def _heads(x: ov.Node, head: int, heads: int) -> ov.Node:
    """(rows, width, size) -> (rows, heads, width, head)."""
    apart = ops.reshape(x, np.array([0, 0, heads, head]), True)
    return ops.transpose(apart, np.array([0, 2, 1, 3]))


def _attended(query: ov.Node, key: ov.Node, value: ov.Node, head: int, size: int, quantised: bool) -> ov.Node:
    if quantised:
        query, key, value = (_quantised(each, -8.0, 8.0 * 127 / 128, 256) for each in (query, key, value))
    scores = ops.multiply(ops.matmul(query, key, False, True), np.float32(1 / np.sqrt(head)))
    mixed = ops.matmul(ops.softmax(scores, 3), value, False, False)
    return ops.reshape(ops.transpose(mixed, np.array([0, 2, 1, 3])), np.array([0, 0, size]), True)


class Runner:
    """One compiled model with one infer request per stream."""

    def __init__(self, model: ov.Model, setting: Setting) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": setting.hint,
            "NUM_STREAMS": str(setting.streams),
            "INFERENCE_NUM_THREADS": str(setting.streams),
            "ENABLE_CPU_PINNING": "NO",
            "CPU_RUNTIME_CACHE_CAPACITY": setting.cache,
        }
        compiled = ov.Core().compile_model(model, "CPU", settings)
        self.names = [each.get_any_name() for each in compiled.inputs]
        named = [each.get_names() for each in compiled.outputs]
        self._output = next((at for at, names in enumerate(named) if "sentence_embedding" in names), 0)
        self.requests = [compiled.create_infer_request() for _ in range(setting.streams)]

    def __call__(self, inputs: Inputs, stream: int = 0) -> Floats:
        """Return float32 (rows, n), one row per text."""
        request = self.requests[stream]
        request.infer({name: inputs[name] for name in self.names})
        found = np.array(request.get_output_tensor(self._output).data, dtype=np.float32)
        return found.reshape(len(found), -1)


def random_inputs(size: int) -> Callable[[int, int], Inputs]:
    random = np.random.default_rng(1)
    return lambda rows, width: {"x": random.standard_normal((rows, width, size)).astype(np.float32)}


def random_tokens() -> Callable[[int, int], Inputs]:
    random = np.random.default_rng(1)

    def given(rows: int, width: int) -> Inputs:
        ids = random.integers(2000, 20_000, (rows, width))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    return given


def wrong(
    quick: Runner, exact: Runner, given: Callable[[int, int], Inputs], shapes: Sequence[tuple[int, int]]
) -> list[Wrong]:
    """Return the shapes below FLOOR with their lowest cosine in two rounds, with all streams at once."""
    streams, found = range(len(quick.requests)), {}
    with ThreadPoolExecutor(len(streams)) as threads:
        for rows, width in itertools.chain(shapes, shapes[::-1]):
            inputs = given(rows, width)
            right = exact(inputs)
            for stream, vectors in enumerate(threads.map(lambda s, inputs=inputs: quick(inputs, s), streams)):
                cosine = float(_cosine(right, vectors).min())
                if not cosine >= FLOOR:
                    found[rows, width, stream] = min(cosine, found.get((rows, width, stream), 1.0))
    return [Wrong(*shape, round(cosine, 3)) for shape, cosine in sorted(found.items())]


def speed(
    quick: Runner, given: Callable[[int, int], Inputs], shapes: Sequence[tuple[int, int]], seconds: float
) -> float:
    """Return tokens per second over all streams, with each shape in turn."""
    inputs = [given(*shape) for shape in shapes]

    def run(stream: int) -> int:
        tokens, ends = 0, time.perf_counter() + seconds
        for (rows, width), each in itertools.cycle(zip(shapes, inputs, strict=True)):
            if time.perf_counter() > ends:
                return tokens
            quick(each, stream)
            tokens += rows * width
        return tokens

    with ThreadPoolExecutor(len(quick.requests)) as threads:
        return sum(threads.map(run, range(len(quick.requests)))) / seconds


def _cosine(a: Floats, b: Floats) -> Floats:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _settings(arguments: argparse.Namespace) -> Iterator[Setting]:
    for each in itertools.product(arguments.hints, arguments.caches, arguments.streams):
        yield Setting(*each)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", type=int, nargs="+", default=[32, 64], help="head sizes of the generated graph")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--model", type=Path, help="int8 model to use instead of the generated graph")
    parser.add_argument("--exact", type=Path, help="the same model in float32")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--widths", default="4-130", help="first and last width")
    parser.add_argument("--hints", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--caches", nargs="+", default=["1024", "0"], help="CPU_RUNTIME_CACHE_CAPACITY")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per speed measurement")
    return parser.parse_args()


def main() -> None:
    arguments = _parsed()
    first, last = map(int, arguments.widths.split("-"))
    shapes = list(itertools.product(arguments.rows, range(first, last + 1)))
    machine = hardware.machine()
    print(f"OpenVINO {ov.__version__} on {machine.cpu}: {' '.join(machine.isa)}")
    for label, models, given in _subjects(arguments):
        exact = Runner(models[0], Setting("f32", "0", 1))
        for setting in _settings(arguments):
            quick = Runner(models[1], setting)
            found = wrong(quick, exact, given, shapes)
            rate = speed(quick, given, shapes[:: max(1, len(shapes) // 16)], arguments.seconds)
            said = f"{len(found)} wrong: {[tuple(each) for each in found[:8]]}" if found else "none wrong"
            print(f"{label}, hint {setting.hint}, cache {setting.cache}, streams {setting.streams}: {said}; "
                  f"{rate:,.0f} tokens/s", flush=True)  # fmt: skip


def _subjects(
    arguments: argparse.Namespace,
) -> Iterator[tuple[str, tuple[ov.Model, ov.Model], Callable[[int, int], Inputs]]]:
    if arguments.model:
        core = ov.Core()
        models = core.read_model(arguments.exact), core.read_model(arguments.model)
        yield arguments.model.name, models, random_tokens()
        return
    for head in arguments.head:
        exact, quick = (graph(head, arguments.heads, arguments.layers, each) for each in (False, True))
        yield f"head {head}", (exact, quick), random_inputs(head * arguments.heads)


if __name__ == "__main__":
    main()
