"""Peer OpenVINO GenAI: TextEmbeddingPipeline with the bundle's IR, in the precision that OpenVINO chooses.

It computes a list as one batch, so it gets slices sorted by length, as sentence-transformers does internally.
"""

import shutil
import sys
from pathlib import Path

from asked import answer

FILES = {"openvino": "openvino_model", "openvino-int8": "openvino_model_qint8_quantized"}


def main():
    backend, folder, work, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[5])

    def open_model():
        import openvino_genai as genai

        place = _laid_out(folder, work / f"genai-{backend}", FILES[backend])
        config = genai.TextEmbeddingPipeline.Config()
        config.pooling_type = genai.TextEmbeddingPipeline.PoolingType.MEAN
        config.normalize = True
        config.max_length = 256
        pipeline = genai.TextEmbeddingPipeline(str(place), "CPU", config, INFERENCE_NUM_THREADS=threads)
        return lambda texts, batch: _embedded(pipeline, texts, batch)

    answer(open_model, "openvino-genai", "openvino", "openvino-tokenizers")


def _embedded(pipeline, texts, batch):
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    rows = [None] * len(texts)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        for row, vector in zip(some, pipeline.embed_documents([texts[row] for row in some]), strict=True):
            rows[row] = vector
    return rows


def _laid_out(bundle, place, name):
    """Create the folder that GenAI opens: a model that returns token vectors, and a tokenizer as a model."""
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    model = ov.Core().read_model(bundle / "openvino" / f"{name}.xml")
    tokens = next(r for r in model.results if "last_hidden_state" in r.output(0).get_names())
    ov.save_model(ov.Model([tokens], model.get_parameters()), place / "openvino_model.xml", compress_to_fp16=False)
    ov.save_model(convert_tokenizer(AutoTokenizer.from_pretrained(bundle)), place / "openvino_tokenizer.xml")
    shutil.copy(bundle / "config.json", place)
    return place


if __name__ == "__main__":
    main()
