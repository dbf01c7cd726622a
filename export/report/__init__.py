"""Reports of an export, for the terminal, for a browser and for machines.

console.py     table and JSON that the command prints
figures.py     plots of report.html
histogram.py   histogram of cosines to the checkpoint
page.py        report.html and report.json
provenance.py  inputs and options of an export
sbom.py        sbom.cdx.json, the bill of materials in CycloneDX 1.6
tables.py      tables of report.html
wording.py     sentences and number formats
"""
