"""The control plane API, mounted at ``/timl`` by Airflow's API server.

``app`` puts it together; ``access`` decides who may; ``context`` holds what handlers work with; ``errors`` gives every
error one shape; ``models``, ``services``, ``keys`` and ``events`` are the routes by noun; ``gateway`` forwards
predictions. Handlers translate HTTP and nothing else.
"""
