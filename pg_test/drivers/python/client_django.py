"""Django: model fields, the index by a class that names the access method and by plain SQL, distances as expressions."""

import django
from django.conf import settings
from django.contrib.postgres.indexes import OpClass, PostgresIndex
from django.db import connection, models

from common import DATABASE, HOST, KINDS, PORT, USER, K, check_answer, check_plan, check_stored, index_sql, main

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": HOST, "PORT": PORT, "USER": USER, "NAME": DATABASE}},
                   INSTALLED_APPS=["django.contrib.postgres"], DEFAULT_AUTO_FIELD="django.db.models.AutoField")
django.setup()

from pgvector import HalfVector, SparseVector  # noqa: E402  the fields want settings
from pgvector.django import (BitField, CosineDistance, HalfVectorField, HammingDistance, L2Distance, MaxInnerProduct,  # noqa: E402
                             SparseVectorField, VectorField)

FIELDS = {"vector": VectorField(dimensions=12), "halfvec": HalfVectorField(dimensions=12), "sparsevec": SparseVectorField(dimensions=40),
          "bit": BitField(length=24)}
DISTANCES = {"vector": L2Distance, "halfvec": CosineDistance, "sparsevec": MaxInnerProduct, "bit": HammingDistance}
MAKE = {"vector": list, "halfvec": HalfVector, "sparsevec": SparseVector, "bit": str}


class OmenIndex(PostgresIndex):
    """What the package's HnswIndex is, for `USING omen`."""

    suffix = "omen"


def plain(value):
    """A value as it was drawn."""
    return value if isinstance(value, str | list) else value.to_list()


def check(kind, values, query):
    meta = type("Meta", (), {"app_label": "drivers", "db_table": f"d_{kind}"})
    item = type(f"Item{kind}", (models.Model,), {"__module__": __name__, "Meta": meta, "embedding": FIELDS[kind]})
    with connection.schema_editor() as editor:
        editor.create_model(item)
        by_class = OmenIndex(OpClass(models.F("embedding"), name=KINDS[kind].opclass), name=f"d_{kind}_class")
        editor.add_index(item, by_class)
        editor.remove_index(item, by_class)
    item.objects.bulk_create([item(id=i + 1, embedding=MAKE[kind](value)) for i, value in values.items()])
    with connection.cursor() as cursor:
        cursor.execute(index_sql(kind, f"d_{kind}"))
    check_stored(values, {found.id - 1: plain(found.embedding) for found in item.objects.all()})
    distance = DISTANCES[kind]("embedding", MAKE[kind](query))
    nearest = item.objects.annotate(distance=distance).order_by("distance")[:K]
    check_plan(nearest.explain())
    check_answer(kind, values, query, [(found.id - 1, found.distance) for found in nearest])


main(check)
