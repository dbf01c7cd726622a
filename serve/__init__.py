"""Bundle -> vectors, hits and scores over HTTP.

api_keys.py       API keys
browser_guard.py  What a web page may make a browser send to a server that has no API keys
client.py         HTTP client of a running server, for `check` and `compare`
errors.py         What can go wrong between a request and its answer
interruption.py   Work on a thread that ends soon after nobody waits for its result any more
main.py           From settings to a listening server, with what an operator wants to read about it on stderr
progress.py       How far the encoding of texts is, and how fast
schemas.py        What the routes take and give
settings.py       Every setting of the server, said once
batching/
bulk/
commands/
compare/          A new bundle or server held against the one it is to replace
devices/          What computes
documents/
http/
index/            Vectors -> hits
indexing/
live/             An index that takes changes
milvus/           An index that lies in Milvus
offline/
search/
service/
telemetry/
"""
