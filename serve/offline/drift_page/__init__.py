"""HTML page of a drift report.

figures.py  Figures of the page
render.py   Renders the page
"""
