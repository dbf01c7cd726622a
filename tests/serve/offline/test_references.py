"""Which reference is taken: the one given, the one beside the bundle, the one in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedship.bundle import REFERENCE, Bundle
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.monitor.drift.reference import DriftReference
from embedship.serve.offline import references


def fitted(path: Path, fingerprint: str, rows: int) -> Path:
    vectors = np.random.default_rng(rows).normal(size=(rows, 8)).astype(np.float32)
    DriftReference.fit(vectors, fingerprint).save(path)
    return path


def test_the_nearest_to_the_operator_wins(altered: Path, tmp_path: Path) -> None:
    opened = Bundle.open(altered)

    def taken(given: Path | None = None) -> int:
        found = references.find(opened, given)
        return 0 if found is None else len(found.vectors)

    assert taken() == 0
    fitted(altered / REFERENCE, opened.fingerprint, 30)
    assert taken() == 30
    assert fitted(references.beside(opened), opened.fingerprint, 31).parent == altered.parent
    assert taken() == 31
    assert taken(fitted(tmp_path / "given", opened.fingerprint, 32)) == 32


def test_a_wrong_one_is_refused_wherever_it_lies(altered: Path, tmp_path: Path) -> None:
    opened = Bundle.open(altered)
    with pytest.raises(UsageError, match="is no drift reference: fit one"):
        references.find(opened, tmp_path / "none")
    with pytest.raises(MismatchError, match=r"given.*belongs to model 000000000000"):
        references.find(opened, fitted(tmp_path / "given", "0" * 64, 30))
    references.beside(opened).write_bytes(b"torn")
    with pytest.raises(UnsafeError, match="is not a drift reference"):
        references.find(opened)


def test_a_linked_bundle_has_the_reference_of_what_it_is_linked_to(altered: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(altered)
    assert references.beside(Bundle.open(tmp_path / "current")) == references.beside(Bundle.open(altered))
