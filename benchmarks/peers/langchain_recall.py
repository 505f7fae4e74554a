"""Recursive chunks, embeddings, BM25, and both joined by LangChain's EnsembleRetriever."""

import json
import sys

from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.document_loaders import DirectoryLoader, TextLoader
from langchain_community.retrievers import BM25Retriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter
from transformers import AutoTokenizer

told = json.load(sys.stdin)
embeddings = HuggingFaceEmbeddings(
    model_name=told["model"], encode_kwargs={"normalize_embeddings": True}, model_kwargs={"device": "cpu"}
)
splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
    AutoTokenizer.from_pretrained(told["model"]),
    chunk_size=told["maxTokens"],
    chunk_overlap=0,
    add_start_index=True,
)
chunks = splitter.split_documents(
    DirectoryLoader(told["folder"], glob="**/*.md", loader_cls=TextLoader).load()
)
store = InMemoryVectorStore.from_documents(chunks, embeddings)
count = 4 * told["topK"]
vector = store.as_retriever(search_kwargs={"k": count})
words = BM25Retriever.from_documents(chunks, k=count, preprocess_func=lambda text: text.lower().split())
fused = EnsembleRetriever(retrievers=[vector, words], weights=[0.5, 0.5])


def places(hits):
    return [
        [hit.metadata["source"].rsplit("/", 1)[-1], hit.metadata["start_index"], len(hit.page_content)]
        for hit in hits[: told["topK"]]
    ]


print(
    json.dumps(
        {
            "vector": [places(vector.invoke(question)) for question in told["questions"]],
            "fused": [places(fused.invoke(question)) for question in told["questions"]],
        }
    )
)
