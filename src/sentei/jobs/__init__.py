"""Run many independent jobs, in this process, in others of this machine or on a cluster.

May import the base modules only.
"""
