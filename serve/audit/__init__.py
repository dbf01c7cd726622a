"""Audit of any embeddings server: does it give the right vectors of a model, and if not, what is wrong?

answers.py      The vectors that the server gave, by test
api_options.py  Judges the options of an API: prompts, base64
apis.py         Requests and responses of the APIs: OpenAI, TEI, Infinity, Cohere, Ollama
audit.py        Runs the tests and returns the report
batches.py      Judges texts in batches and at once against the same texts alone
checkpoint.py   Exports a checkpoint to a temporary bundle, in another process
collect.py      Sends the texts of every test
lengths.py      Explains texts by their length: truncation, wrong shapes
recipes.py      Ways to make a vector of a text: the right one, and the wrong ones that servers use
reference.py    Computes the vectors of any recipe from a bundle
report.py       The report and its parts
server.py       The audited server: sends requests, with retries and within limits
single.py       Judges texts that were sent alone
texts.py        The texts
tolerance.py    How far a vector may be from the right one
vectors.py      Explains vectors: model, pooling, prompt, normalisation, precision, changes to the text
"""
