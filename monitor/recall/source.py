"""RecallSource: the three ways to measure recall. They answer different questions and are never added together."""

from enum import StrEnum


class RecallSource(StrEnum):
    """Where recall was measured."""

    SHADOW = "shadow"  # live queries, also searched exactly: does the index find the nearest documents?
    PROBE = "probe"  # labelled queries, replayed on a schedule: do model, index and corpus give the right answers?
    FEEDBACK = "feedback"  # judgements of users: did they get the documents they call correct?
