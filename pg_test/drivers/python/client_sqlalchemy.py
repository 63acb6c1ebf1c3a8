"""SQLAlchemy: mapped classes, the index among the table's own, distances as methods of the columns, reflection."""

from pgvector import HalfVector, SparseVector
from pgvector.sqlalchemy import BIT, HALFVEC, SPARSEVEC, VECTOR, avg
from sqlalchemy import Index, Integer, create_engine, inspect, select
from sqlalchemy.dialects.postgresql.base import PGBit
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from common import DATABASE, HOST, KINDS, PORT, USER, K, check_answer, check_plan, check_stored, main
from plans import record_plans

ENGINE = create_engine(f"postgresql+psycopg://{USER}@/{DATABASE}?host={HOST}&port={PORT}")
TYPES = {"vector": VECTOR(12), "halfvec": HALFVEC(12), "sparsevec": SPARSEVEC(40), "bit": BIT(24)}
METHODS = {"vector": "l2_distance", "halfvec": "cosine_distance", "sparsevec": "max_inner_product", "bit": "hamming_distance"}
MAKE = {"vector": list, "halfvec": HalfVector, "sparsevec": SparseVector, "bit": str}
PLANS = record_plans(ENGINE)


def plain(value):
    """A value as it was drawn."""
    return value if isinstance(value, str | list) else value.to_list()


def check(kind, values, query):
    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = f"s_{kind}"
        id = mapped_column(Integer, primary_key=True)
        embedding = mapped_column(TYPES[kind])
        __table_args__ = (Index(f"s_{kind}_omen", "embedding", postgresql_using="omen", postgresql_ops={"embedding": KINDS[kind].opclass},
                                postgresql_with={"lists": 2}),)

    Base.metadata.create_all(ENGINE)
    reflected = {column["name"]: column["type"] for column in inspect(ENGINE).get_columns(f"s_{kind}")}["embedding"]
    assert isinstance(reflected, PGBit if kind == "bit" else type(TYPES[kind])), reflected
    with Session(ENGINE) as session:
        session.add_all([Item(id=i, embedding=MAKE[kind](value)) for i, value in values.items()])
        session.commit()
        check_stored(values, {item.id: plain(item.embedding) for item in session.scalars(select(Item))})
        distance = getattr(Item.embedding, METHODS[kind])(MAKE[kind](query))
        nearest = select(Item.id, distance).order_by(distance).limit(K)
        check_answer(kind, values, query, [tuple(row) for row in session.execute(nearest)])
        check_plan(PLANS.pop())
        if kind in ("vector", "halfvec"):
            assert len(plain(session.scalar(select(avg(Item.embedding))))) == 12


main(check)
