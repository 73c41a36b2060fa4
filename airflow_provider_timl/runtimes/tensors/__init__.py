"""Tensors as requests carry them: what runtimes whose models take arrays have in common.

``spec`` says what a model takes and gives; ``json_request`` and ``json_answer`` hold the rules of TensorFlow Serving's
REST API. Nothing here knows an engine.
"""
