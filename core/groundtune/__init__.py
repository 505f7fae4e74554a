"""What every part of Groundtune shares: resource types, registry, retrieval, prompts."""
