"""Engines for clusters: one that is the same for all schedulers, and an adapter for each of them.

``engine`` is what the manager speaks to, ``scheduler`` what an adapter has to offer, ``queue_watch`` and
``events`` how ends are noticed, ``commands`` how programs of a scheduler are run, here or through a gateway.
"""
