"""Run inside the clients' own environment: what each client makes of a live server's answers, as one JSON object.

Usage: python ask.py URL CLIENT. An exception of the client's is an answer, too: {"error": its class, "says": ...}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

TEXTS = ["How do I open a file?", "zip two lists"]
KEY = "a key nobody asks for"


def huggingface(url: str) -> dict[str, Any]:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    found: dict[str, Any] = {}
    for path in ("", "/embed"):
        client = InferenceClient(model=url + path)
        # Its signature says one text; what it posts may be a list, which is how people use it with TEI.
        several: Any = TEXTS
        options: Any = {"normalize": True, "truncate": True, "truncation_direction": "Right"}
        found[f"one{path}"] = client.feature_extraction(TEXTS[0]).tolist()
        found[f"several{path}"] = client.feature_extraction(several, prompt_name="document", **options).tolist()
        try:
            client.feature_extraction("many words " * 800, truncate=False)
        except HfHubHTTPError as error:
            found[f"refused{path}"] = error.response.json()["error"]
    asked = InferenceClient(model=f"{url}/similarity")
    return found | {"similarity": asked.sentence_similarity(TEXTS[0], other_sentences=TEXTS)}


def langchain(url: str) -> dict[str, Any]:
    """As it comes it sends ids of tiktoken's vocabulary. tiktoken would fetch that: here it knows bytes only."""
    import openai
    import tiktoken.registry
    from langchain_openai import OpenAIEmbeddings

    ranks = {bytes([byte]): byte for byte in range(256)}
    plain = tiktoken.Encoding("cl100k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    tiktoken.registry.ENCODINGS["cl100k_base"] = plain

    def client(**options: Any) -> Any:
        return OpenAIEmbeddings(base_url=f"{url}/v1", api_key=KEY, model="m", max_retries=0, **options)

    try:
        client().embed_documents(TEXTS)
        refused = "accepted"
    except openai.BadRequestError as error:
        refused = str(error)
    asked = client(check_embedding_ctx_length=False)
    return {"refused": refused, "documents": asked.embed_documents(TEXTS), "query": asked.embed_query(TEXTS[0])}


def llama_index(url: str) -> dict[str, Any]:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    asked = TextEmbeddingsInference(base_url=url, model_name="m", auth_token=KEY)
    return {
        "documents": asked.get_text_embedding_batch(TEXTS),
        "query": asked.get_query_embedding(TEXTS[0]),
        "later": asyncio.run(asked.aget_text_embedding(TEXTS[1])),
    }


def cohere(url: str) -> dict[str, Any]:
    import cohere

    client = cohere.ClientV2(KEY, base_url=url)
    kinds = ["float", "int8", "binary", "ubinary", "base64"]
    reply = client.embed(model="m", input_type="search_document", texts=TEXTS, embedding_types=kinds, truncate="END")
    found = {"id": reply.id, "texts": reply.texts, "tokens": reply.meta.billed_units.input_tokens}
    found |= {kind: getattr(reply.embeddings, "float_" if kind == "float" else kind) for kind in kinds}
    plain = client.embed(model="m", input_type="search_query", texts=TEXTS)
    found["plain"] = plain.embeddings.float_
    try:
        client.embed(model="m", input_type="image", texts=TEXTS)
    except cohere.BadRequestError as error:
        found["refused"] = error.body["message"]
    return found


def cohere_v1(url: str) -> dict[str, Any]:
    import cohere

    client = cohere.Client(KEY, base_url=url)
    plain = client.embed(model="m", input_type="search_document", texts=TEXTS)
    typed = client.embed(model="m", input_type="search_query", texts=TEXTS, embedding_types=["float"])
    return {"plain": plain.embeddings, "float": typed.embeddings.float_}


def ollama(url: str) -> dict[str, Any]:
    import ollama

    client = ollama.Client(host=url)
    options = {"temperature": 0.0, "num_ctx": 4096}
    reply = client.embed(model="m", input=TEXTS, truncate=True, options=options, keep_alive="5m")
    try:
        client.embed(model="m", input="many words " * 800, truncate=False)
        refused = "accepted"
    except ollama.ResponseError as error:
        refused = error.error
    return {"several": reply.embeddings, "tokens": reply.prompt_eval_count, "refused": refused}


def infinity(url: str) -> dict[str, Any]:
    from infinity_client import Client
    from infinity_client.api.default import embeddings, health, models
    from infinity_client.models import HTTPValidationError, OpenAIEmbeddingInputText

    client = Client(base_url=url, raise_on_unexpected_status=True)
    found = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=TEXTS, model="m"))
    refused = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=[], model="m"))
    assert isinstance(refused, HTTPValidationError), refused
    listed = models.sync(client=client)
    return {
        "documents": [each.embedding for each in found.data],
        "tokens": found.usage.total_tokens,
        "refused": refused.detail[0].msg,
        "models": [(each.id, each.capabilities) for each in listed.data],
        "health": health.sync(client=client).to_dict(),
    }


def cohere_rerank(url: str) -> dict[str, Any]:
    import cohere

    found = {}
    for version, client in (("1", cohere.Client(KEY, base_url=url)), ("2", cohere.ClientV2(KEY, base_url=url))):
        reply = client.rerank(model="m", query=TEXTS[0], documents=[*TEXTS, "open()"], top_n=2)
        found[version] = [(each.index, each.relevance_score) for each in reply.results]
    return found


def infinity_rerank(url: str) -> dict[str, Any]:
    from infinity_client import Client
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    client = Client(base_url=url, raise_on_unexpected_status=True)
    asked = RerankInput(query=TEXTS[0], documents=[*TEXTS, "open()"], top_n=2, return_documents=True)
    reply = rerank.sync(client=client, body=asked)
    return {
        "results": [(each.index, each.relevance_score) for each in reply.results],
        "documents": [each.document for each in reply.results],
        "tokens": reply.usage.total_tokens,
    }


if __name__ == "__main__":
    clients = (
        huggingface, langchain, llama_index, cohere, cohere_v1, ollama, infinity, cohere_rerank, infinity_rerank,
    )  # fmt: skip
    asked = {each.__name__: each for each in clients}
    print(json.dumps(asked[sys.argv[2]](sys.argv[1])))
