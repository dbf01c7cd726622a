"""Export: a checkpoint becomes a verified bundle.

build.py             the export: build variants, run gates, choose, write the bundle
dry_run.py           the plan of an export
inputs.py            opens and reads the inputs of an export
options.py           ExportOptions
output_folder.py     the folder that becomes the bundle
probe_pairs.py       probe pairs for re-rankers
probe_texts.py       adversarial and real probe texts
silence.py           suppresses output and telemetry of libraries
steps.py             progress lines
variant_failures.py  failures of single variants
checkpoint/          opens checkpoints: folders, adapters, hub ids, cross-encoders
commands/            `embedship export` and `embedship evaluate`
gates/               checks that each variant must pass
report/              reports for terminal, browser and machines
variants/            builds the file of each variant
"""
