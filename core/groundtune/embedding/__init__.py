"""Text to vectors, and passages into an order: models compiled by OpenVINO on a CPU, by PyTorch on a GPU."""

from groundtune.embedding.embedder import Embedder, Vectors
from groundtune.embedding.reranker import CrossEncoder

__all__ = ["CrossEncoder", "Embedder", "Vectors"]
