"""Commands of this package, one module per command. The list of all commands is in embedship/commands/main.py.

audit.py           `audit`
backup.py          `backup` and `restore`
check.py           `check`
compare.py         `compare`
drift.py           `drift`
encode.py          `encode`
index.py           `index`
index_goals.py     `index`: parses the goals, prints the measured candidates
index_migrate.py   `index migrate`
index_milvus.py    `index` with a Milvus collection as the target
index_progress.py  Progress bars of the index commands
index_report.py    Report of the index commands
index_signature.py `index sign` and `index verify`
index_update.py    `index update`
monitor.py         `monitor init`
monitor_export.py  `monitor export`
options.py         Parsers of option values that several commands use
reference.py       `reference`
serve.py           `serve`
"""
