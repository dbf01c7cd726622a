"""A new bundle or server held against the one it is to replace: what differs, and whether it may.

bundles.py      Two bundles
footprint.py    Most memory of a process that opens a bundle and encodes texts
gates.py        Gates
live.py         Two servers, asked the same queries in turn as a client asks
pace.py         How much faster is one encoder than another on the same texts? In turn, so that both see the same
parity.py       One model twice
questions.py    The queries to compare with
rankings.py     How alike are two rankings, and how good is each by labels? Pure
report.py       What a comparison found
report_page.py  compare.html
sources.py      What OLD finds exactly, and what NEW finds, for every query
"""
