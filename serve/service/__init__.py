"""Service.

background.py       What the server does for its monitor on a schedule
canaries.py         What the canaries sing
candidate.py        Another bundle and index, asked what the server is asked, before they take its place
collection.py       The index as the server uses it
document_writer.py  Documents put and deleted over HTTP
drain.py            When may a server stop? It keeps answering until nobody asks any more, or until its time is up
feedback.py         POST /feedback
index_trial.py      An index opened and searched once, in a process of its own, before a running server opens it
model.py            A bundle at work
monitor_setup.py    Settings, bundle and index -> the monitor of one server, ready to start
query_pipeline.py   From texts to vectors and hits
reload.py           A new bundle or index, taken up by a running server
reranker.py         The cross-encoder beside the model that embeds
service.py          One bundle and its index, as they are served
shape_walk.py       The canaries' walk through the shapes of batches
state.py            What lives as long as the server, and the service that answers in it now
"""
