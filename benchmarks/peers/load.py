"""Ready vectors into Postgres, by LangChain's PGVectorStore and LlamaIndex's, each as its guides show it."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sqlalchemy import create_engine, make_url, text

told = json.load(sys.stdin)
vectors = np.load(told["vectors"])
texts = json.loads(Path(told["texts"]).read_text(encoding="utf-8"))
url = make_url(told["database"])
table = {"langchain": "docs", "llamaindex": "data_docs"}[told["peer"]]


def langchain():
    from langchain_core.embeddings import Embeddings
    from langchain_postgres import PGEngine, PGVectorStore

    class Ready(Embeddings):
        def embed_documents(self, texts):
            raise NotImplementedError

        embed_query = embed_documents

    engine = PGEngine.from_connection_string(url.set(drivername="postgresql+psycopg"))
    engine.init_vectorstore_table(table_name=table, vector_size=vectors.shape[1])
    store = PGVectorStore.create_sync(engine=engine, table_name=table, embedding_service=Ready())
    store.add_embeddings(texts=texts, embeddings=vectors.tolist())


def llamaindex():
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.postgres import PGVectorStore

    store = PGVectorStore.from_params(
        connection_string=url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False),
        async_connection_string=url.set(drivername="postgresql+asyncpg").render_as_string(
            hide_password=False
        ),
        table_name="docs",
        embed_dim=vectors.shape[1],
    )
    store.add(
        [TextNode(text=one, embedding=vector) for one, vector in zip(texts, vectors.tolist(), strict=True)]
    )


began = time.perf_counter()
{"langchain": langchain, "llamaindex": llamaindex}[told["peer"]]()
loaded = time.perf_counter() - began
engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
with engine.connect() as connection:
    # Both make this index by this statement, and leave Postgres's settings as they are.
    connection.execute(
        text(
            f"CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops) WITH (m=16, ef_construction=64)"
        )
    )
    rows = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
print(json.dumps({"loaded": loaded, "indexed": time.perf_counter() - began, "rows": rows}))
