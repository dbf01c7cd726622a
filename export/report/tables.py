"""Tables of report.html, as text in rows and columns."""

from __future__ import annotations

from embedship.bundle import BundleManifest, Quantisation, RetrievalReport, ShapeCertificate, Variant, VectorCodes
from embedship.charts.table import ChartTable, ColumnKind, TableColumn, TableRow, facts, text
from embedship.export.report.figures import frontier
from embedship.export.report.wording import (
    UNMEASURED,
    code,
    cosine,
    count,
    megabytes,
    milliseconds,
    plain_rows,
    runtime,
)
from embedship.export.variants.recipes import PLAIN

_METRICS = ("recall@10", "ndcg@10", "mrr@10", "map@100", "accuracy@1")


def variants(manifest: BundleManifest) -> ChartTable:
    """Return one row per variant: what it is, its size and its speed."""
    choice, rows = manifest.choice, plain_rows(manifest.quality) if manifest.quality else {}
    plain = choice.tokens_per_second.get(PLAIN)

    def row(v: Variant) -> TableRow:
        speed, latency = choice.tokens_per_second.get(v.name), choice.latency_seconds.get(v.name)
        cells = (
            v.name,
            runtime(v),
            v.precision,
            v.quantisation,
            megabytes(v.size),
            UNMEASURED if speed is None else count(speed),
            UNMEASURED if speed is None or not plain else f"{speed / plain:.2f} x",
            UNMEASURED if latency is None else milliseconds(latency),
            f"{rows[v.name].metrics['recall@10']:.4f}" if v.name in rows else UNMEASURED,
        )
        return TableRow(cells, v.name == choice.variant)

    columns = (
        *map(text, ("variant", "runtime", "runs as", "quantised")),
        *map(TableColumn, ("size", "tokens/s", "to plain ONNX", "one short text", "recall@10")),
    )
    caption = f"The marked row is the variant that serve uses, chosen for {choice.objective}."
    return ChartTable(caption, columns, [row(v) for v in manifest.variants])


def gate(manifest: BundleManifest) -> ChartTable:
    """Return the cosines of each variant to the checkpoint with the floors that apply."""

    def row(v: Variant) -> TableRow:
        parity, floors = v.parity, manifest.floors.get(v.precision)
        cells = (
            v.name,
            v.precision,
            f"{parity.texts:,}",
            cosine(parity.minimum),
            _floor(floors.minimum if floors else None),
            cosine(parity.mean),
            _floor(floors.mean if floors else None),
            f"{parity.overlap:.3f}" if parity.overlap else UNMEASURED,
        )
        return TableRow(cells, v.name == manifest.choice.variant)

    headings = ("texts", "worst cosine", "floor", "mean cosine", "floor", "top-10 overlap")
    longest = max(v.parity.longest for v in manifest.variants)
    caption = "A variant below one of its floors fails: it is left out, or the export ends with exit code 3." + (
        f" The longest text has {longest:,} tokens." if longest else ""
    )
    columns = (text("variant"), text("runs as"), *map(TableColumn, headings))
    return ChartTable(caption, columns, [row(v) for v in manifest.variants])


def _floor(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def invariance(manifest: BundleManifest) -> ChartTable:
    """Return the figures of the batch-invariance certificate."""

    def row(v: Variant) -> TableRow:
        report = v.invariance
        figures = (report.shuffled, report.over_padded, report.other_side, report.worst)
        cells = [cosine(figure) if report.texts and figure is not None else UNMEASURED for figure in figures]
        scale = "from its batch" if v.quantisation is Quantisation.DYNAMIC else "fixed"
        return TableRow((v.name, f"{report.texts:,}", *cells, scale), v.name == manifest.choice.variant)

    headings = ("texts", "shuffled", "over-padded", "other side", "worst")
    columns = (text("variant"), *map(TableColumn, headings), text("scale"))
    caption = (
        "Cosine of a text's vector alone to its vector in a batch: with texts drawn at random, padded far beyond the "
        "longest text, or padded on the left (measured only if the checkpoint's own tokenizer pads there)."
    )
    return ChartTable(caption, columns, [row(v) for v in manifest.variants])


def shape_certificates(manifest: BundleManifest) -> ChartTable | None:
    """Return the certificates of batch shapes, or None if no variant has one."""

    def row(v: Variant, certificate: ShapeCertificate) -> TableRow:
        figures = (
            f"{certificate.checked:,}",
            f"{len(certificate.wrong):,}",
            cosine(certificate.worst),
            f"{certificate.seconds:.1f} s",
        )
        return TableRow(
            (v.name, certificate.runtime, *figures, str(certificate.streams)), v.name == manifest.choice.variant
        )

    rows = [row(v, v.shapes) for v in manifest.variants if v.shapes]
    headings = ("shapes", "wrong", "worst cosine", "took", "streams")
    caption = (
        "Each batch shape (rows x tokens) that a server can use was computed on this machine and compared with a wider "
        "one. Wrong shapes are never used. Variants that are not shown are checked when a server first uses them."
    )
    return ChartTable(caption, (text("variant"), text("runtime"), *map(TableColumn, headings)), rows) if rows else None


def operators(manifest: BundleManifest) -> ChartTable:
    def row(v: Variant) -> TableRow:
        counts = ", ".join(f"{name} {number}" for name, number in v.fused.items())
        return TableRow((v.name, counts or "none"), v.name == manifest.choice.variant)

    columns = (text("variant"), text("fused or quantised operators"))
    return ChartTable("", columns, [row(v) for v in manifest.variants])


def worst_texts(manifest: BundleManifest) -> ChartTable:
    columns = (text("variant"), TableColumn("cosine"), TableColumn("the text", ColumnKind.CODE))
    rows = [
        TableRow((v.name, cosine(v.parity.minimum), v.parity.worst_text)) for v in manifest.variants if v.parity.texts
    ]
    return ChartTable("", columns, rows)


def quality(measured: RetrievalReport, variant: str) -> ChartTable:
    """Return all measured ways to compute and store vectors. Marked rows are the Pareto front."""
    best = frontier([row for row in measured.measured if row.variant == variant])
    reference = plain_rows(measured).get("checkpoint")
    whole = reference.metrics["recall@10"] if reference else 0.0
    rows = [
        TableRow(
            (
                row.variant,
                f"{row.dimension:,}",
                code(row),
                f"{row.bytes_per_vector:,}",
                *(f"{row.metrics[name]:.4f}" if name in row.metrics else UNMEASURED for name in _METRICS),
                f"{row.metrics['recall@10'] / whole:.1%}" if whole else UNMEASURED,
            ),
            row in best and len(best) > 1,
        )
        for row in measured.measured
    ]
    columns = (
        text("vectors of"),
        TableColumn("dimensions"),
        text("code"),
        TableColumn("bytes"),
        *map(TableColumn, _METRICS),
        TableColumn("of its recall@10"),
    )
    marked = " Marked: no other row has more recall@10 in as few bytes." if any(row.marked for row in rows) else ""
    caption = f"{measured.queries:,} queries, {measured.documents:,} documents, exact search; the last column is the "
    return ChartTable(f"{caption}share of the checkpoint's recall@10.{marked}", columns, rows)


def model(manifest: BundleManifest) -> ChartTable:
    pipeline, codes = manifest.pipeline, manifest.codes
    prompts = "; ".join(f"{name}: {prompt!r}" for name, prompt in pipeline.prompts.items())
    pairs = (
        ("architecture", pipeline.architecture),
        ("pooling", pipeline.pooling),
        ("dimensions", ", ".join(map(str, pipeline.dimensions or (pipeline.dimension,)))),
        ("longest text", f"{pipeline.max_tokens:,} tokens, the rest is cut off"),
        ("vectors", f"{'unit length' if pipeline.normalised else 'not normalised'}, compared by {pipeline.similarity}"),
        ("prompts", prompts or "none"),
        (
            "int8 code",
            f"one frozen scale per dimension, in bundle.json; {codes.clipped:.3%} of held-out components outside",
        ),
        ("binary code", f"1 where a component is above {codes.binary_threshold:g}"),
        ("rescoring", _rescoring(codes)),
    )
    return facts(pairs, "property", "value")


def _rescoring(codes: VectorCodes) -> str:
    if codes.rescored_recall is None:
        return UNMEASURED
    recall = f"{codes.rescored_recall:.4f} of the 10 exact nearest among {codes.documents:,} texts"
    return f"{codes.rescore} candidates for each hit find {recall}"


def machine(manifest: BundleManifest) -> ChartTable:
    host = manifest.choice.machine
    pairs = (
        ("processor", host.cpu),
        ("cores", f"{host.cores:g}"),
        ("instructions", ", ".join(host.isa) or "none known"),
        *sorted(manifest.source.versions.items()),
    )
    return facts(pairs, "what", "value")


def provenance(manifest: BundleManifest) -> ChartTable:
    record = manifest.provenance
    pairs = [
        ("fingerprint", manifest.fingerprint),
        ("weights sha256", manifest.source.weights_sha256),
        ("tokenizer sha256", manifest.tokenizer_sha256),
        ("created", manifest.created),
        ("seed", str(record.seed)),
        *(record.options.items() or [("options", "not recorded")]),
        *((f"checkpoint/{name}", digest) for name, digest in record.files.items()),
    ]
    return facts(pairs, "what", "value")
