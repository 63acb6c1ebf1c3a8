"""LangChain's PGVector store, which knows vectors and cosine distance, with metadata filters; the index by plain SQL beside."""

from langchain_core.embeddings import Embeddings
from langchain_postgres import PGVector
from sqlalchemy import create_engine, text

from common import DATABASE, HOST, PORT, USER, K, check_plan, distance, main
from plans import record_plans

ENGINE = create_engine(f"postgresql+psycopg://{USER}@/{DATABASE}?host={HOST}&port={PORT}")
PLANS = record_plans(ENGINE)


class Lookup(Embeddings):
    """Texts are ids of values."""

    def __init__(self, values, query):
        self.values = {str(i): value for i, value in values.items()} | {"query": query}

    def embed_documents(self, texts):
        return [self.values[text] for text in texts]

    def embed_query(self, text):
        return self.values[text]


def check(kind, values, query):
    # create_extension: it would ask for an extension of the name "vector".
    store = PGVector(embeddings=Lookup(values, query), connection=ENGINE, embedding_length=12, collection_name="values", create_extension=False)
    store.add_texts([str(i) for i in values], metadatas=[{"even": i % 2 == 0} for i in values], ids=[str(i) for i in values])
    with ENGINE.begin() as conn:
        conn.execute(text("CREATE INDEX langchain_omen ON langchain_pg_embedding USING omen (embedding vector_cosine_ops)"))
        stored = conn.execute(text("SELECT document, embedding::text FROM langchain_pg_embedding")).fetchall()
        assert {int(i): [float(x) for x in value[1:-1].split(",")] for i, value in stored} == values
    for only_even in (False, True):
        passing = [i for i in values if not only_even or i % 2 == 0]
        found = store.similarity_search_with_score("query", k=K, filter={"even": True} if only_even else None)
        exact = sorted(distance("halfvec", values[i], query) for i in passing)[:K]
        assert {int(document.page_content) for document, _ in found} <= set(passing)
        assert [round(score, 4) for _, score in found] == [round(d, 4) for d in exact], (found, exact)
        check_plan(PLANS[-1])
    nearest = str(min(values, key=lambda i: distance("halfvec", values[i], query)))
    assert store.as_retriever(search_kwargs={"k": 1}).invoke("query")[0].page_content == nearest
    assert len(store.max_marginal_relevance_search("query", k=3, fetch_k=K)) == 3


main(check, ("vector",))
