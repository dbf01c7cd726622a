"""Commands.

evaluate.py  The verb `evaluate`
export.py    The verb `export`
"""
