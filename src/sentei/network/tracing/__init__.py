"""Find the prunable units of any network by running it with NaN in chosen rows' outputs.

Imports the modules of `network`.
"""
