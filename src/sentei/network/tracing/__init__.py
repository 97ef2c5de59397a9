"""Find the prunable units of any network by running it with NaN in chosen rows' outputs.

May import `network` and the ground.
"""
