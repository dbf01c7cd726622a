"""Gates: the checks that a variant must pass before it is part of a bundle.

batch_invariance.py    a text's vector must not depend on the other texts of its batch
dataset.py             labelled questions in BEIR's layout
parity.py              compares the vectors of each variant with those of the checkpoint
probe_set.py           the texts that the gates try
retrieval.py           the choice of a variant by its recall
retrieval_metrics.py   recall, nDCG, MRR, MAP on the user's questions, for each way to store vectors
shape_certificates.py  the shape certificate of the chosen variant
vector_codes.py        ranges and multipliers of int8 and binary vector codes
"""
