"""What the operator talks to: the Kubernetes API, Prefect, Ray Serve and the registry."""
