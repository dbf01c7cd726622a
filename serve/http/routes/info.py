"""GET /info: a service as its clients see it."""

from __future__ import annotations

from embedship.golden import GoldenCheck
from embedship.serve import schemas
from embedship.serve.service.collection import Collection
from embedship.serve.service.model import LoadedModel
from embedship.serve.service.service import ModelService
from embedship.version import __version__


def info(service: ModelService) -> schemas.Info:
    """What GET /info answers."""
    model, settings = service.bundle.manifest.pipeline, service.settings
    return schemas.Info(
        version=__version__,
        fingerprint=service.bundle.fingerprint,
        model_id=service.bundle.manifest.source.name,
        variant=service.encoder.variant.name,
        runtime=service.encoder.variant.runtime,
        precision=service.encoder.engine.precision,
        dimension=model.dimension,
        dimensions=list(model.dimensions),
        max_input_length=model.max_tokens,
        max_client_batch_size=settings.max_texts,
        max_concurrent_requests=settings.queue_texts,
        max_batch_tokens=settings.batch_tokens,
        model_sha=service.bundle.manifest.source.revision,
        model_dtype=service.encoder.engine.precision,
        model_type=schemas.TeiType(schemas.TeiPoolingInfo(model.pooling)),
        auto_truncate=True,
        prompts=sorted(model.prompts),
        default_prompt=model.default_prompt,
        streams=service.encoder.engine.streams,
        devices=[
            schemas.DeviceInfo(each.name, each.up, each.streams, each.restarts, each.pulse.batches)
            for model in service.models
            for each in model.fleet.devices
        ],
        limits=schemas.Limits(
            max_texts=settings.max_texts,
            max_characters=settings.max_characters,
            max_body_bytes=settings.max_body_bytes,
            max_hits=settings.max_hits,
            queue_texts=settings.queue_texts,
            batch_tokens=settings.batch_tokens,
        ),
        golden=_golden(service.golden),
        reranker=_reranker(service.reranker.running) if service.reranker else None,
        index=_index(service.shelf),
    )


def _index(shelf: Collection | None) -> schemas.IndexInfo | None:
    if shelf is None:
        return None
    found, size = shelf.store.manifest, shelf.store.size
    return schemas.IndexInfo(
        size.documents, str(found.kind), found.query_prompt, size.rows, found.chunking, found.exact
    )


def _golden(found: GoldenCheck) -> schemas.GoldenReport:
    return schemas.GoldenReport(found.texts, found.minimum, found.mean)


def _reranker(running: LoadedModel) -> schemas.RerankerInfo:
    encoder, manifest = running.encoder, running.bundle.manifest
    return schemas.RerankerInfo(
        manifest.fingerprint,
        manifest.source.name,
        encoder.variant.name,
        encoder.variant.runtime,
        encoder.engine.precision,
        manifest.pipeline.max_tokens,
        _golden(running.golden),
    )
