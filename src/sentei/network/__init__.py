"""Groups of prunable units and synapses, the mask of what is alive, and the tools to trace and cut.

The subpackages (`tracing`, `surgery`, `encoding`) import the modules here, never the other way
round. Outside `sentei.network`, all of them import only the base modules (`errors`, `html_table`).

May import the ground: `errors`, `losses`, `samples`, `storage`, `distributed` and `html_table`. Its
packages import it, not the other way round.
"""
