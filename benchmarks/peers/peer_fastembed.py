"""Peer fastembed: the bundle's ONNX graphs as custom models, opened from their folder without a download."""

import os
import sys

from asked import answer

os.environ["HF_HUB_OFFLINE"] = "1"

FILES = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_qint8_avx512_vnni.onnx"}


def main():
    backend, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[5])

    def open_model():
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model="local/model",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="local/model"),
            dim=384,
            model_file=FILES[backend],
        )
        model = TextEmbedding("local/model", specific_model_path=folder, threads=threads)
        # fastembed truncates to the tokenizer's 128 tokens. sentence-transformers uses the model's 256 tokens.
        model.model.tokenizer.enable_truncation(256)
        return lambda texts, batch: list(model.embed(texts, batch_size=batch))

    answer(open_model, "fastembed", "onnxruntime")


if __name__ == "__main__":
    main()
