"""The demonstration that ``script/demo`` runs: the whole product on one machine, on loopback, with a real life cycle.

Not part of the installed package. Everything it writes is below ``.timl/`` in the checkout; everything it starts, it
stops (``processes.py``).
"""
