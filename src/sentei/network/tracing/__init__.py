"""Find the prunable units of any network: write NaN into chosen outputs, see where it arrives.

May import `network` and the base modules.
"""
