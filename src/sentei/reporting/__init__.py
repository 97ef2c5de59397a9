"""Tables, figures and an HTML page about pruning runs and networks.

May import `reporting.page`, `pruning`, `formats`, `training`, `datasets`, and all that they may
import.
"""
