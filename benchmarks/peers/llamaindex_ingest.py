"""LlamaIndex as its guides show it: SimpleDirectoryReader, an IngestionPipeline, PGVectorStore."""

import json
import sys
import time

from llama_index.core import SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.postgres import PGVectorStore
from sqlalchemy import make_url
from transformers import AutoTokenizer

told = json.load(sys.stdin)
embed_model = HuggingFaceEmbedding(model_name=told["model"], device="cpu")
embed_model.get_query_embedding("warm")
tokenizer = AutoTokenizer.from_pretrained(told["model"])
url = make_url(told["database"])

began = time.perf_counter()
store = PGVectorStore.from_params(
    connection_string=url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False),
    async_connection_string=url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False),
    table_name="docs",
    embed_dim=384,
)
documents = SimpleDirectoryReader(told["folder"], required_exts=[".md"]).load_data()
pipeline = IngestionPipeline(
    transformations=[
        SentenceSplitter(
            chunk_size=told["maxTokens"],
            chunk_overlap=0,
            tokenizer=lambda text: tokenizer.encode(text, add_special_tokens=False),
        ),
        embed_model,
    ],
    vector_store=store,
)
nodes = pipeline.run(documents=documents)
seconds = time.perf_counter() - began

retriever = VectorStoreIndex.from_vector_store(store, embed_model=embed_model).as_retriever(
    similarity_top_k=told["topK"]
)
found = []
for question in told["questions"]:
    found.append(
        [
            [
                hit.node.metadata["file_name"],
                hit.node.start_char_idx,
                hit.node.end_char_idx - hit.node.start_char_idx,
            ]
            for hit in retriever.retrieve(question)
        ]
    )
print(json.dumps({"seconds": seconds, "chunks": len(nodes), "found": found}))
