"""Charts: plots and tables as data, drawn as SVG and HTML by draw.j2.

axis.py    Axes and ticks
labels.py  Places labels next to points
page.py    HTML pages without scripts or requests
plot.py    Plots
table.py   Tables
"""
