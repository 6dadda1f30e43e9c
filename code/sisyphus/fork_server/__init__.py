"""Workers that start in milliseconds: a process that has imported what they need forks them.

``client`` is the manager's side, ``server`` the process that forks, ``safety`` says when it must not.

What is forked is a worker like any other: a process with a session, log, pid and resources of its own, which
outlives the manager and the server. The server decides nothing and knows nothing that would be lost with it:
whenever it is not there, not ready, or not safe, the engine starts the worker as a program.
"""
