"""Commands.

backup.py          The verbs `backup` and `restore`
check.py           The verb `check`
compare.py         The verb `compare`
drift.py           The verb `drift`
encode.py          The verb `encode`
index.py           The verb `index`
index_goals.py     Goals of `embedship index` as users write them, and what was measured as they read it
index_migrate.py   The verb `index migrate`
index_milvus.py    The verb `index` where the index is to lie in Milvus
index_progress.py  The progress bar of the index commands
index_report.py    What `index` prints about a finished index, as JSON or as a table
index_update.py    The verb `index update`
monitor.py         `embedship monitor`
monitor_export.py  `embedship monitor export`
options.py         Options that several verbs read alike
reference.py       The verb `reference`
serve.py           `embedship serve`
"""
