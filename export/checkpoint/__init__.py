"""Checkpoints: everything that can be exported, opened as a sentence-transformers folder.

adapter.py             PEFT LoRA adapters, merged into their base
cross_encoder.py       loaded cross-encoders
dimensions.py          dimensions of vectors, the checkpoint's own or the user's
embedder.py            loaded embedding models
folder.py              a sentence-transformers folder, checked as plain JSON
forward.py             forward pass of the model's own code: its errors, its positions
hub.py                 download by hub id
layout.py              files that let sentence-transformers open a bundle
load.py                loads the SentenceTransformer of a folder
open.py                opens what the user names
plain_transformers.py  plain transformers folders with a pooling added
protocol.py            SourceModel, the interface of a loaded checkpoint
static_embedding.py    loaded static embeddings (model2vec)
tokenizer.py           the frozen tokenizer
trust.py               pickles and code, allowed by hash only
"""
