"""Goals page.

render.py  What a build by goal measured, as a page
"""
