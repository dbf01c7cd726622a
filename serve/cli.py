"""`embedship serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def _option(name: str, help: str) -> typer.models.OptionInfo:
    flag = "--" + name.replace("_", "-")
    option: typer.models.OptionInfo = typer.Option(flag, envvar="EMBEDSHIP_" + name.upper(), help=help)
    return option


def serve(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", envvar="EMBEDSHIP_BUNDLE", help="Folder written by `embedship export`.")
    ],
    index: Annotated[
        Path | None, _option("index", "Folder written by `embedship index`; without it no /search.")
    ] = None,
    reference: Annotated[
        Path | None,
        _option(
            "reference",
            "Drift reference, written by `embedship reference`; default: BUNDLE.reference.safetensors beside the "
            "bundle, else the one in it.",
        ),
    ] = None,
    variant: Annotated[
        str | None, _option("variant", "Variant to run; default: the one measured best on a machine like this one.")
    ] = None,
    cache: Annotated[
        Path | None,
        _option("cache", "Folder that keeps what was measured on this machine; default: beside the bundle."),
    ] = None,
    host: Annotated[str, _option("host", "Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, _option("port", "Port to listen on; 0 for any free one.")] = 8080,
    api_key_file: Annotated[
        Path | None,
        _option(
            "api_key_file",
            "API keys, one a line; requests must carry one (Authorization: Bearer KEY). Keys may also be in "
            "EMBEDSHIP_API_KEYS. Default: everybody may ask.",
        ),
    ] = None,
    streams: Annotated[
        int | None, _option("streams", "Engine threads; default: one a core of the cgroup quota.")
    ] = None,
    batch_tokens: Annotated[int, _option("batch_tokens", "Most padded tokens in a batch.")] = 1_536,
    queue_texts: Annotated[int, _option("queue_texts", "Texts that may wait; more are answered with 429.")] = 4_096,
    max_texts: Annotated[int, _option("max_texts", "Most texts in a request.")] = 2_048,
    max_characters: Annotated[int, _option("max_characters", "Most characters in a text.")] = 200_000,
    max_body_bytes: Annotated[int, _option("max_body_bytes", "Most bytes in a request.")] = 16_777_216,
    max_hits: Annotated[int, _option("max_hits", "Most hits a search may ask for.")] = 1_000,
    drain_seconds: Annotated[
        float,
        _option(
            "drain_seconds",
            "After SIGTERM, keep answering until requests stop coming, at most so long; give the process 20 s more "
            "before it is killed (terminationGracePeriodSeconds).",
        ),
    ] = 30.0,
    sample_rate: Annotated[float, _option("sample_rate", "Share of queries tested for drift.")] = 1.0,
    shadow_rate: Annotated[float, _option("shadow_rate", "Share of searches repeated exactly, for recall@10.")] = 0.01,
    shadow_share: Annotated[
        float,
        _option("shadow_share", "Most time the exact searches may take, as a share of one core; the rest is skipped."),
    ] = 0.02,
    drift_interval_seconds: Annotated[
        float, _option("drift_interval_seconds", "Seconds between tests for drift.")
    ] = 60.0,
    false_alarms: Annotated[
        str, _option("false_alarms", 'False alarms of drift that are accepted: "1 per 30 days", "2 per week".')
    ] = "1 per 30 days",
    canary_interval_seconds: Annotated[
        float, _option("canary_interval_seconds", "Seconds between golden texts re-encoded on every device.")
    ] = 30.0,
    probes: Annotated[
        Path | None,
        _option(
            "probes",
            'Labelled queries, JSON Lines {"text", "relevant": [ids]}, replayed for recall@10; default: probes.jsonl '
            "beside the index, if it is there.",
        ),
    ] = None,
    probe_interval_seconds: Annotated[
        float, _option("probe_interval_seconds", "Seconds between replays of the probes.")
    ] = 600.0,
    probe_baseline: Annotated[
        float | None, _option("probe_baseline", "Recall@10 the probes should have; default: that of the first replay.")
    ] = None,
    keep_answers: Annotated[
        int, _option("keep_answers", "Answered queries that POST /feedback can still judge by their request id.")
    ] = 10_000,
    keep_queries: Annotated[
        int,
        _option("keep_queries", "Show the texts of so many drifted or judged queries; 0 keeps no query text at all."),
    ] = 0,
    state_dir: Annotated[
        Path | None,
        _option("state_dir", "Folder that keeps the monitor's memory over restarts; without it, it begins anew."),
    ] = None,
) -> None:
    """Serve embeddings (OpenAI and text-embeddings-inference) and search over HTTP.

    The bundle's golden texts are encoded first: a server that would answer with wrong vectors does not start.
    Every option is also an environment variable: --drain-seconds is EMBEDSHIP_DRAIN_SECONDS.
    """
    # Before numpy loads: the exact search of the monitor must not wake a pool of BLAS threads beside the streams.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedship.serve.settings import Settings
    from embedship.serve.startup import run

    run(
        Settings(
            bundle=bundle, index=index, reference=reference, variant=variant, host=host, port=port,
            api_key_file=api_key_file, streams=streams,
            batch_tokens=batch_tokens, queue_texts=queue_texts, max_texts=max_texts, max_characters=max_characters,
            max_body_bytes=max_body_bytes, max_hits=max_hits, drain_seconds=drain_seconds, sample_rate=sample_rate,
            shadow_rate=shadow_rate, shadow_share=shadow_share, drift_interval_seconds=drift_interval_seconds,
            false_alarms=false_alarms, canary_interval_seconds=canary_interval_seconds, probes=probes,
            probe_interval_seconds=probe_interval_seconds, probe_baseline=probe_baseline, keep_answers=keep_answers,
            keep_queries=keep_queries, state_dir=state_dir,
        )
    )  # fmt: skip
