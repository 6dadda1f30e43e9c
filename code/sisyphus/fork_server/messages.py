"""What manager and fork server say to each other: JSON texts, each a packet of the manager's socket.

* the server's first: ``{}``, or ``{"refused": why}``;
* a request: ``call``, the command of a worker; ``arguments``, its end from the word ``worker`` on;
``devices``,
  CUDA_VISIBLE_DEVICES or null; and the open log;
* its answer: ``{"pid": n}``, with a handle of the process and a pipe; or ``{"refused": why}``.

The new process waits until the manager writes GO into the pipe, and ends without a trace if the pipe is
closed instead: however the server or the manager dies, a worker that nobody knows of never begins.
"""

GO = b"g"
MAX_MESSAGE_BYTES = 1 << 16
IMPORT_NOTHING = 0
"""In place of the number of cpus: import what every worker needs, and nothing that the settings name."""
