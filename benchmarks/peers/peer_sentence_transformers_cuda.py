"""Peer sentence-transformers on an NVIDIA GPU, as it recommends: float16 and torch's scaled dot product attention."""

import os
import sys

from asked import answer

os.environ["HF_HUB_OFFLINE"] = "1"


def main():
    folder = sys.argv[2]

    def open_model():
        import torch
        from sentence_transformers import SentenceTransformer

        options = {"dtype": torch.float16, "attn_implementation": "sdpa"}
        model = SentenceTransformer(folder, device="cuda", local_files_only=True, model_kwargs=options)
        return lambda texts, batch: model.encode(texts, batch_size=batch, show_progress_bar=False)

    answer(open_model, "sentence-transformers", "torch", "transformers")


if __name__ == "__main__":
    main()
