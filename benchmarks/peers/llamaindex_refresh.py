"""LlamaIndex's document management as its guide shows it: a pipeline with a docstore, upserting."""

import json
import sys
import time
from pathlib import Path

from llama_index.core import SimpleDirectoryReader
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.storage.docstore.postgres import PostgresDocumentStore
from llama_index.storage.kvstore.postgres import PostgresKVStore
from llama_index.vector_stores.postgres import PGVectorStore
from sqlalchemy import make_url
from transformers import AutoTokenizer

told = json.load(sys.stdin)
embed_model = HuggingFaceEmbedding(model_name=told["model"], device="cpu")
embed_model.get_query_embedding("warm")
tokenizer = AutoTokenizer.from_pretrained(told["model"])
url = make_url(told["database"])
urls = {
    "connection_string": url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False),
    "async_connection_string": url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False),
}
pipeline = IngestionPipeline(
    transformations=[
        SentenceSplitter(
            chunk_size=told["maxTokens"],
            chunk_overlap=0,
            tokenizer=lambda text: tokenizer.encode(text, add_special_tokens=False),
        ),
        embed_model,
    ],
    vector_store=PGVectorStore.from_params(**urls, table_name="docs", embed_dim=384),
    # from_uri takes no Unix socket, where the benchmark's Postgres listens
    docstore=PostgresDocumentStore(PostgresKVStore(table_name="docstore", perform_setup=True, **urls)),
    docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    disable_cache=True,
)


def refresh():
    began = time.perf_counter()
    documents = SimpleDirectoryReader(told["folder"], required_exts=[".md"], filename_as_id=True).load_data()
    nodes = pipeline.run(documents=documents)
    return time.perf_counter() - began, len(nodes)


first, _ = refresh()
unchanged, _ = refresh()
changed = Path(told["folder"], told["change"])
changed.write_text(changed.read_text() + told["addition"])
one, embedded = refresh()
print(json.dumps({"first": first, "unchanged": unchanged, "one": one, "embedded": embedded}))
