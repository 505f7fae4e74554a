"""LangChain's indexing API as its guide shows it: a record manager, `index` with cleanup="full"."""

import json
import sys
import time
from pathlib import Path

from langchain_classic.indexes import SQLRecordManager
from langchain_community.document_loaders import DirectoryLoader, TextLoader
from langchain_core.indexing import index
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_postgres import PGEngine, PGVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from transformers import AutoTokenizer

told = json.load(sys.stdin)
embeddings = HuggingFaceEmbeddings(
    model_name=told["model"], encode_kwargs={"normalize_embeddings": True}, model_kwargs={"device": "cpu"}
)
embeddings.embed_query("warm")
tokenizer = AutoTokenizer.from_pretrained(told["model"])
splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
    tokenizer, chunk_size=told["maxTokens"], chunk_overlap=0
)
url = told["database"].replace("postgresql://", "postgresql+psycopg://")
engine = PGEngine.from_connection_string(url)
engine.init_vectorstore_table(table_name="docs", vector_size=384)
store = PGVectorStore.create_sync(engine=engine, table_name="docs", embedding_service=embeddings)
records = SQLRecordManager("pgvector/docs", db_url=url)
records.create_schema()


def refresh():
    began = time.perf_counter()
    loaded = DirectoryLoader(told["folder"], glob="**/*.md", loader_cls=TextLoader).load()
    counts = index(
        splitter.split_documents(loaded),
        records,
        store,
        cleanup="full",
        source_id_key="source",
    )
    return time.perf_counter() - began, counts


first, _ = refresh()
unchanged, _ = refresh()
changed = Path(told["folder"], told["change"])
changed.write_text(changed.read_text() + told["addition"])
one, counts = refresh()
print(json.dumps({"first": first, "unchanged": unchanged, "one": one, "embedded": counts["num_added"]}))
