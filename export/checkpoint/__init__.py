"""Checkpoint.

adapter.py             A PEFT LoRA adapter over its base
cross_encoder.py       A loaded cross-encoder
embedder.py            A loaded checkpoint
folder.py              A sentence-transformers folder (2.x to 6.x), read as plain JSON
hub.py                 A checkpoint by its hub id
layout.py              The files that let sentence-transformers open a bundle as well
open.py                Whatever was given as the checkpoint becomes a folder that can be read as it lies there
plain_transformers.py  A plain transformers folder, made into a sentence-transformers one
protocol.py            What an export asks of a loaded checkpoint, whichever its task
tokenizer.py           The tokenizer, frozen
trust.py               What can run code when it is opened, and the hash by which somebody who has read it lets
"""
