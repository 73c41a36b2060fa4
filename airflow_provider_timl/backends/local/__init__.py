"""The local backend: model servers as processes of this machine, and Envoy in front of them.

``backend`` puts the parts together. ``instances`` keeps processes running; ``instance`` is one of them with its folder,
``process`` any process that outlives us, ``artifact_cache`` its files, ``machine`` its share of the hardware, ``logs``
what it writes. ``gateway`` runs Envoy and publishes to it; ``envoy_config`` renders its files, ``envoy_admin`` asks
what it does with them, ``published`` remembers which configuration a version stands for.
"""
