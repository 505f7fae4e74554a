"""LangChain as its guides show it: DirectoryLoader, a recursive splitter, PGVectorStore."""

import json
import sys
import time

from langchain_community.document_loaders import DirectoryLoader, TextLoader
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
    tokenizer, chunk_size=told["maxTokens"], chunk_overlap=0, add_start_index=True
)
engine = PGEngine.from_connection_string(told["database"].replace("postgresql://", "postgresql+psycopg://"))

began = time.perf_counter()
engine.init_vectorstore_table(table_name="docs", vector_size=384)
store = PGVectorStore.create_sync(engine=engine, table_name="docs", embedding_service=embeddings)
loaded = DirectoryLoader(told["folder"], glob="**/*.md", loader_cls=TextLoader).load()
chunks = splitter.split_documents(loaded)
store.add_documents(chunks)
seconds = time.perf_counter() - began

found = []
for question in told["questions"]:
    hits = store.similarity_search(question, k=told["topK"])
    found.append(
        [
            [hit.metadata["source"].rsplit("/", 1)[-1], hit.metadata["start_index"], len(hit.page_content)]
            for hit in hits
        ]
    )
sample = [chunk.page_content for chunk in chunks[:: max(1, len(chunks) // 200)]][:200]
print(
    json.dumps(
        {
            "seconds": seconds,
            "chunks": len(chunks),
            "found": found,
            "sample": sample,
            "vectors": embeddings.embed_documents(sample),
        }
    )
)
