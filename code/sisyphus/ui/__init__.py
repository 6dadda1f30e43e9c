"""A person beside the manager: the dialogue of ``sis manager``, and the graph on a whole terminal.

::

    session         ``sis manager``: loads, asks, runs, says what came out
    opening         whether it can be opened here; runs it, and puts the log lines of meanwhile aside
    interface       the application
    jobs_screen     what stands where, keys, what happens at each
    outputs_screen  registered outputs, and what is in them
    rendering       what is in an output, drawn
    question        a text above it, until a key is pressed
    job_table       all jobs as a table of which only the visible rows are made
    block_tree      all jobs by block
    filtering       which jobs are listed, and in which order
    texts           what is said of a job
    reading         reads what is shown of a job, in a thread
    backend         what is asked of the graph and done to it, beside a manager or with one in this process
    messages        log lines on their way to the screen

Everything shown comes from ``sisyphus.view``. Only screens and lists know textual.
"""
