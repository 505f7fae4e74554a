"""Text to vectors: the model compiled by OpenVINO on a CPU, by PyTorch on a GPU."""

from groundtune.embedding.embedder import Embedder, Vectors

__all__ = ["Embedder", "Vectors"]
