"""Our model server beside what a user would otherwise take, per model type, in one interleaved run.

``python -m benchmarks.serving [--rounds N] [--seconds S] [--types pmml,tensorflow,angel] [--against mlserver,...]``.
Every contender has its own virtual environment, is started anew in every round, must give our answers before it is
measured, and answers plain HTTP on a loopback port from one worker.
"""
