"""Results as tables and a plot.

::

    rows.py        what a table is made of: one row label, seed and scaling factor for each evaluation (light)
    results.py     evaluation folders to arrays of per-example correctness
    statistics.py  means, differences and paired-bootstrap intervals; pure
    summary.py     the numbers of a table, not yet text
    render.py      Markdown, LaTeX, CSV; pure
    plot.py        score against the scaling factor
    report.py      write_report: all of it into one folder
"""
