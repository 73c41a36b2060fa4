"""Runtimes: the model server program and one engine for each model type.

``server`` starts; ``http`` speaks HTTP; ``application`` knows the routes; ``batching`` feeds the engine; ``rows`` reads
requests of named fields; ``pmml`` is an engine. Nothing here imports Airflow or a database.
"""
