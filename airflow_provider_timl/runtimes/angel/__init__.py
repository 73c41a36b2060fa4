"""The ``angel`` runtime: models of the Angel parameter server, read and evaluated with NumPy.

``meta`` and ``matrices`` read the files; ``graph`` reads and checks ``graph.json``; ``layers`` and ``losses`` compute;
``requests`` reads bodies; ``engine`` joins them. Nothing here trusts a number that stands in a file before the bytes
that it speaks of were seen.
"""
