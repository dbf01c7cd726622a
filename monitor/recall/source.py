"""Where a recall was measured. The three answer different questions and are never added together."""

from enum import StrEnum


class RecallSource(StrEnum):
    SHADOW = "shadow"  # live queries searched exactly as well: does the index find what is there?
    PROBE = "probe"  # labelled queries replayed on a schedule: do model, index and corpus answer what they should?
    FEEDBACK = "feedback"  # what users said was right: did they get it?
