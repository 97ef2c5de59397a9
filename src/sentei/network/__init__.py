"""Groups of prunable units and synapses, the mask of what is alive, and the tools to trace and cut.

The subpackages (`tracing`, `surgery`, `encoding`) import the modules here, never the other way
round. The *base modules* are those files directly in `sentei` that every package may import.

May import the base modules only: `errors`, `losses`, `samples`, `storage`, `distributed` and
`html_table`.
"""
