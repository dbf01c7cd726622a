"""Commands.

evaluate.py  `embedship evaluate`
export.py    `embedship export`
"""
