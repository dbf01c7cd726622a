"""Comparison of a new bundle or server with the one in use: measurements, gates and the decision."""
