"""Goals page.

render.py  HTML page with the measurements of a build by goal
"""
