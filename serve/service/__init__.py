"""Service: the state of a server, and the objects that handle its requests.

background.py       Periodic tasks of the monitor: canary checks, labelled queries, snapshots
canaries.py         Golden texts that are re-encoded periodically on every device
candidate.py        Shadow candidate: repeats a sample of searches on another bundle and index
collection.py       Async access to the index
document_writer.py  Embeds and stores documents sent over HTTP
drain.py            Decides when a draining server may stop
feedback.py         Scores the judgements of POST /feedback
model.py            A loaded and verified bundle, with the queue of its devices
monitor_setup.py    Builds the monitor from settings, bundle and index
query_pipeline.py   Encodes texts, searches the index, re-ranks the hits, informs the monitor
reload.py           Replaces the bundle or index of a running server
reload_trial.py     Opens bundles and indexes in a child process before a running server opens them
reranker.py         Cross-encoder that scores how well passages answer a query
service.py          One bundle with its index, monitor and tasks; replaced as a whole by a reload
shape_walk.py       Periodically rechecks all batch shapes
state.py            Process-wide state, and the current service
trust.py            Refuses bundles and indexes without the demanded signature or digest
"""
