"""What there is to see of a graph and its jobs, as plain data: all that shows something draws from here.

Nothing here changes a job folder, a job or an engine.
"""
