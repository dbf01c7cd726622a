"""Peer Infinity, in its own process without its server, with torch, which it recommends for CPUs."""

import os
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}

from asked import answer


def main():
    folder, threads = sys.argv[2], int(sys.argv[5])

    def open_model():
        import torch
        from infinity_emb import EngineArgs, SyncEngineArray

        torch.set_num_threads(threads)
        engines = SyncEngineArray.from_args(
            [EngineArgs(model_name_or_path=folder, engine="torch", device="cpu", trust_remote_code=False)]
        )

        def encode(texts, batch):  # its batch size is fixed when it is opened; 32 is the default
            vectors, _ = engines.embed(model=folder, sentences=texts).result()
            return vectors

        return encode

    answer(open_model, "infinity-emb", "torch", "transformers")


if __name__ == "__main__":
    main()
