"""Checkpoint -> bundle.

build.py             A checkpoint becomes a bundle
dry_run.py           What an export would do, without doing it
options.py           What an export is asked to do
output_folder.py     Where a bundle is made
probe_pairs.py       Pairs of query and passage that a re-ranker is tried with, and whether it keeps the
probe_texts.py       Texts that a model is tried with
silence.py           Third-party noise
steps.py             One line on stderr for each step of an export
variant_failures.py  Failures of single variants
checkpoint/
commands/
gates/
report/
variants/
"""
