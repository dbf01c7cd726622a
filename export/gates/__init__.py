"""Gates.

batch_invariance.py    The batch-invariance certificate
dataset.py             Questions with known answers, in BEIR's layout
parity.py              The gate
retrieval.py           Does a variant still find what the checkpoint finds? The best one that does is chosen
retrieval_metrics.py   Retrieval metrics on the user's own questions, for every way to make and store vectors
shape_certificates.py  The shape certificate at export
vector_codes.py        The codes of a bundle, fitted on the checkpoint's own vectors and measured on other texts
"""
