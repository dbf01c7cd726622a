"""Serve: embeddings, search and re-ranking over HTTP, and the commands around them.

api_keys.py        API, write and admin keys
browser_guard.py   Rejects requests of other sites' web pages if the server has no API keys
client.py          HTTP client of a running server, for `check` and `compare`
errors.py          Errors that a request can end with, and their HTTP status
interruption.py    Ends work on a thread when no caller waits for its result any more
main.py            Starts the server process from its settings
progress.py        Progress bar and counters of encoding
setting_fields.py  Fields of the settings: default, help text, panel, allowed range
settings.py        Settings of the server: flags, environment variables, documentation
batching/          Queue, admission and batches of texts
bulk/              Encoding of large data sets
commands/          Command line
compare/           Compares a new bundle or server with the one in use
devices/           Devices: in this process, or in worker processes
documents/         Document store, filters, full-text search, chunking
http/              Connections, routes, web page
index/             FAISS indexes
indexing/          Building, migrating and updating an index
live/              Writable index on the local disk
milvus/            Index in Milvus
offline/           Drift reports and training data from logs
schemas/           Request and response types of the routes
search/            Interface of search backends, and hybrid search
service/           State of a server, and the objects that handle its requests
telemetry/         Metrics, logs and traces
"""
