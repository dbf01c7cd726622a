"""Shape certificates: which batch shapes give wrong vectors on this machine, so that they are not used.

certificates.py  Makes, stores, finds and applies certificates
subject.py       What is certified: a variant, its streams and the shapes of its batches
texts.py         Texts for trying shapes, made from the golden texts
trial.py         Computes every shape on every stream and finds the wrong ones
"""

from embedship.shapes.certificates import (
    applies,
    certify,
    describe_certificate,
    ensure,
    find,
    identity,
    require,
    restrict_if_certified,
    store,
    warm,
)
from embedship.shapes.subject import CertificateSubject, CertifiedEncoder, Encode
from embedship.shapes.texts import Key, ShapeTexts

__all__ = [
    "CertificateSubject",
    "CertifiedEncoder",
    "Encode",
    "Key",
    "ShapeTexts",
    "applies",
    "certify",
    "describe_certificate",
    "ensure",
    "find",
    "identity",
    "require",
    "restrict_if_certified",
    "store",
    "warm",
]
