"""A small Kubernetes-style API server for custom resources, for development on one machine.

Run it with ``python -m groundtune_local.kubeapi``. It speaks enough of the API for kubectl, kopf and
client libraries: discovery, custom resource definitions, validation, watches, server-side apply. It
runs no pods and enforces no access rules beyond its bearer token.
"""
