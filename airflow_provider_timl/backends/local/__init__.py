"""The local backend: model servers as processes of this machine, and Envoy in front of them.

``backend`` puts the parts together; ``instances`` keeps processes running; ``process`` is one of them; ``gateway`` runs
Envoy and publishes to it; ``envoy_config`` renders its files; ``logs`` keeps and reads logs.
"""
