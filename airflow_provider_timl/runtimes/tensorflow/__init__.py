"""The ``tensorflow`` runtime: SavedModels on TensorFlow's own session, answered as TensorFlow Serving answers.

``runtime`` says what the runtime is and imports nothing heavy; ``engine`` is the loaded model, ``inspection`` decides
which models may become one. TensorFlow itself is imported by ``library`` alone.
"""
