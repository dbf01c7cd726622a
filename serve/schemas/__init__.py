"""Request and response types of the routes. The OpenAPI document is generated from them, so it always matches.

documents.py   Documents and feedback
embeddings.py  Texts: embeddings, similarity, tokens
search.py      Searches
server.py      Models, limits, health, reload

The types that only the dialects of Infinity and Cohere use are defined next to their routes.

/v1/embeddings ignores unknown fields, because each release of OpenAI's clients sends more of them. The options that
other services add to it are known, and honoured or refused (http/routes/embedding_options.py). /embed and /search
reject unknown fields; otherwise a misspelt `trunkate` would be silently ignored.
"""

from embedship.serve.schemas.documents import (
    DeletedReply,
    DocumentId,
    DocumentReply,
    DocumentsReply,
    DocumentsRequest,
    FeedbackReply,
    FeedbackRequest,
    NewDocument,
    Truncated,
)
from embedship.serve.schemas.embeddings import (
    DecodeRequest,
    Dimensions,
    Embedding,
    Embeddings,
    EmbeddingsOptions,
    EmbeddingsRequest,
    EmbedRequest,
    EncodeReply,
    EncodeRequest,
    SimilarityInputs,
    SimilarityParameters,
    SimilarityRequest,
    Strict,
    Token,
    TokenizeRequest,
    TokensRequest,
    Usage,
)
from embedship.serve.schemas.search import (
    Place,
    Rerank,
    SearchHit,
    SearchReply,
    SearchRequest,
    SearchResult,
)
from embedship.serve.schemas.server import (
    DeviceInfo,
    GoldenReport,
    Health,
    IndexInfo,
    Info,
    Limits,
    ModelCard,
    Models,
    Readiness,
    ReloadRequest,
    RerankerInfo,
    TeiPoolingInfo,
    TeiType,
)

__all__ = [
    "DecodeRequest",
    "DeletedReply",
    "DeviceInfo",
    "Dimensions",
    "DocumentId",
    "DocumentReply",
    "DocumentsReply",
    "DocumentsRequest",
    "EmbedRequest",
    "Embedding",
    "Embeddings",
    "EmbeddingsOptions",
    "EmbeddingsRequest",
    "EncodeReply",
    "EncodeRequest",
    "FeedbackReply",
    "FeedbackRequest",
    "GoldenReport",
    "Health",
    "IndexInfo",
    "Info",
    "Limits",
    "ModelCard",
    "Models",
    "NewDocument",
    "Place",
    "Readiness",
    "ReloadRequest",
    "Rerank",
    "RerankerInfo",
    "SearchHit",
    "SearchReply",
    "SearchRequest",
    "SearchResult",
    "SimilarityInputs",
    "SimilarityParameters",
    "SimilarityRequest",
    "Strict",
    "TeiPoolingInfo",
    "TeiType",
    "Token",
    "TokenizeRequest",
    "TokensRequest",
    "Truncated",
    "Usage",
]
