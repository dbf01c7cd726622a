"""Peer sentence-transformers: one process per backend, controlled by stdin to interleave rounds.

It runs in its own venv (peer_sentence_transformers.txt). asked.py describes requests and responses.
"""

import json
import os
import sys
from pathlib import Path

from asked import answer

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


def main() -> None:
    backend, folder, work, texts, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]

    def open_model():
        import torch

        torch.set_num_threads(int(threads))
        model = OPENERS[backend](folder, work, texts)
        return lambda sentences, batch: model.encode(sentences, batch_size=batch, show_progress_bar=False)

    answer(open_model, "sentence-transformers", "torch", "transformers", "onnxruntime", "openvino", "nncf")


def _open(folder, **options):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)


def _torch(folder, work, texts):
    return _open(folder)


def _onnx(folder, work, texts):
    return _open(folder, backend="onnx", model_kwargs={"provider": "CPUExecutionProvider", "export": True})


def _onnx_o3(folder, work, texts):
    from sentence_transformers.backend import export_optimized_onnx_model

    base = _saved(folder, work / "onnx-o3", "onnx")
    export_optimized_onnx_model(_open(base, backend="onnx"), "O3", str(base))
    return _open(base, backend="onnx", model_kwargs={"file_name": "onnx/model_O3.onnx"})


def _onnx_int8(folder, work, texts):
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model

    base = _saved(folder, work / "onnx-int8", "onnx")
    export_dynamic_quantized_onnx_model(_open(base, backend="onnx"), "avx512_vnni", str(base))
    return _open(base, backend="onnx", model_kwargs={"file_name": "onnx/model_qint8_avx512_vnni.onnx"})


def _openvino(folder, work, texts):
    return _open(folder, backend="openvino", model_kwargs={"export": True})


def _openvino_int8(folder, work, texts):
    """Apply its documented static quantisation, calibrated on our texts because its default data set is a download."""
    from sentence_transformers.backend import export_static_quantized_openvino_model

    base = _saved(folder, work / "openvino-int8", "openvino")
    data = work / "calibration"
    data.mkdir(parents=True, exist_ok=True)
    rows = json.loads(Path(texts).read_text())
    (data / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in rows))
    export_static_quantized_openvino_model(
        _open(base, backend="openvino"),
        None,
        str(base),
        dataset_name=str(data),
        dataset_config_name="default",
        dataset_split="train",
        column_name="text",
    )
    return _open(base, backend="openvino", model_kwargs={"file_name": "openvino/openvino_model_qint8_quantized.xml"})


def _saved(folder, target, backend):
    _open(folder, backend=backend, model_kwargs={"export": True}).save_pretrained(str(target))
    return target


OPENERS = {
    "torch": _torch,
    "onnx": _onnx,
    "onnx-O3": _onnx_o3,
    "onnx-int8": _onnx_int8,
    "openvino": _openvino,
    "openvino-int8": _openvino_int8,
}

if __name__ == "__main__":
    main()
