"""Drift page.

figures.py  The figures of a drift report
render.py   drift.html
"""
