"""Failures of single variants: an export continues without an optional variant and stops for a named one."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from embedship.bundle import ExportStage, LeftOut, Variant
from embedship.errors import GateError, MissingExtra, UsageError
from embedship.export.steps import StepTimer
from embedship.export.variants.recipes import PLAIN
from embedship.files import sealed

# The disk is full, over quota, read-only or failing, or a file reached its size limit.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


class VariantError(GateError):
    """A variant could not be built, or failed a check. `reason` does not end with a full stop."""

    def __init__(self, name: str, stage: ExportStage, reason: str) -> None:
        super().__init__(f"{name} failed ({stage}): {reason}")
        self.name, self.stage, self.reason = name, stage, reason


@contextmanager
def failing(name: str, stage: ExportStage) -> Iterator[None]:
    """Convert every exception of the block into a VariantError of this variant and stage."""
    try:
        yield
    except VariantError:
        raise
    except OSError as error:
        if error.errno in _DISK:  # not the variant's fault: the output folder explains it
            raise
        raise VariantError(name, stage, _reason(error)) from error
    except Exception as error:  # converters and runtimes have no common error class
        raise VariantError(name, stage, _reason(error)) from error


class VariantFailures:
    """The failures of one export. `left_out` lists the variants that the bundle does not contain."""

    def __init__(self, folder: Path, wanted: Sequence[str], named_by_user: bool, steps: StepTimer) -> None:
        """`wanted`: names of all variants to build. `named_by_user`: no variant may be left out."""
        self._folder, self._wanted, self._named, self._steps = folder, wanted, named_by_user, steps
        self.left_out: list[LeftOut] = []

    @contextmanager
    def optional(self, name: str) -> Iterator[None]:
        """Record the VariantError of an optional variant. For any other variant, raise GateError with advice.

        A UsageError that caused the failure is raised unchanged, because then the command line is wrong.
        """
        try:
            yield
        except VariantError as failure:
            if name != PLAIN and not self._named:
                self.left_out.append(LeftOut(name=name, stage=failure.stage, reason=failure.reason))
                self._steps.print_line(f"{name} is left out: {failure.reason}")
                return
            cause = failure.__cause__
            if isinstance(cause, UsageError) and not isinstance(cause, MissingExtra):
                raise cause from None
            raise GateError(f"{failure}. No bundle was written. {self._cure(failure)}") from failure

    @contextmanager
    def cleaning(self) -> Iterator[None]:
        """If the block fails, remove the files that it added to the folder."""
        before = sealed.list_files(self._folder)
        try:
            yield
        except VariantError:
            for path in sealed.list_files(self._folder).keys() - before.keys():
                (self._folder / path).unlink()
            raise

    def without_failed(self, variants: Sequence[Variant]) -> list[Variant]:
        """Return the variants that have not failed."""
        failed = {one.name for one in self.left_out}
        return [variant for variant in variants if variant.name not in failed]

    def _cure(self, failure: VariantError) -> str:
        lower = "lower the floor if you accept the loss" if failure.stage is ExportStage.PARITY else ""
        if failure.name == PLAIN:
            cure = f": {lower}" if lower else ""
            return f"Every other variant is made from {PLAIN}, so it cannot be left out{cure}."
        others = ",".join(name for name in self._wanted if name != failure.name)
        leave, keep = f"Leave {failure.name} out (--variants {others})", "keep what passes (--skip-failed)"
        return f"{leave}, {keep}, or {lower}." if lower else f"{leave}, or {keep}."


def _reason(error: Exception) -> str:
    message = str(error).strip().rstrip(".")
    return message if isinstance(error, GateError) else f"{type(error).__name__}: {message}".rstrip(": ")
