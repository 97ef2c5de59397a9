"""Tables, figures and an HTML page about pruning runs and networks.

Imports `pruning`, `formats`, `training`, `datasets` and all below them.
"""
