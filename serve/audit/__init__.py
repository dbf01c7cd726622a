"""Audit of any embeddings server: does it return the right vectors of a model? If not, what is wrong?

answers.py      The vectors that the server gave, by test
api_options.py  Judges the options of an API: prompts, base64
apis.py         Requests and responses of the APIs: OpenAI, TEI, Infinity, Cohere, Ollama
audit.py        Runs the tests and returns the report
batches.py      Compares texts in batches and in concurrent requests with the same texts alone
checkpoint.py   Exports a checkpoint to a temporary bundle, in another process
collect.py      Sends the texts of every test
lengths.py      Explains wrong vectors by the length of texts: truncation, wrong shapes
recipes.py      Ways to make a vector from a text: the right way, and wrong ways that servers use
reference.py    Computes the vectors of any recipe from a bundle
report.py       The report and its parts
server.py       The audited server: sends requests, with retries and within limits
single.py       Judges texts that were sent alone
texts.py        The texts that an audit sends
tolerance.py    How far a vector may be from the right one
vectors.py      Explains wrong vectors: model, pooling, prompt, normalisation, precision, changes to the text
"""
