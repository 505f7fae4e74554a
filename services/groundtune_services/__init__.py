"""The OpenAI-compatible endpoint: retrieval, adapters and the vLLM engine in one Ray Serve replica."""
