"""Report.

console.py     What an export ends with
figures.py     The figures of an export
histogram.py   Cosines to the checkpoint as counts, in bins that are even in the number of nines
page.py        report.html and report.json
provenance.py  How a bundle came to be
sbom.py        sbom.cdx.json, the bill of materials in CycloneDX 1.6
tables.py      The tables of a report, as words in rows and columns
wording.py     What the measurements say, in sentences, and how figures are written
"""
