"""Turn what a run kept into tables, figures and a page.

Imports `pruning`, `formats`, `training`, `datasets` and all below them.
"""
