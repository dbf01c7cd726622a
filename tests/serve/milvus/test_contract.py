"""The suite that every index in a folder passes, unchanged, over collections of Milvus Lite.

What it asks of kinds that Milvus has not is skipped. One test is left out: that a search takes no other thread is said
of FAISS in this process, and Milvus is another process.
"""

from __future__ import annotations

from ..index import test_index as suite

globals().update(
    {
        name: test
        for name, test in vars(suite).items()
        if name.startswith("test_") and name != "test_a_search_stays_on_the_thread_that_asked"
    }
)
