"""Charts.

axis.py    Axes
labels.py  Names beside points, placed so that they cover neither a point nor each other
page.py    One page in one file
plot.py    Figures as numbers
table.py   Tables as words in rows and columns
"""
