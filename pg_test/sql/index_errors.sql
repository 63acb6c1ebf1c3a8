-- What the access method refuses, and how it says so.
\set VERBOSITY default
CREATE TABLE bad (id int, v vector(3), free vector);
CREATE INDEX ON bad USING omen (v vector_l2_ops) WITH (lists = -1);
CREATE INDEX ON bad USING omen (v vector_l2_ops) WITH (lists = 65537);
CREATE INDEX ON bad USING omen (v vector_l2_ops) WITH (lists = many);
CREATE INDEX ON bad USING omen (v vector_l2_ops) WITH (nosuch = 1);
CREATE INDEX ON bad USING omen (free vector_l2_ops);
CREATE INDEX ON bad USING omen (id);
CREATE INDEX ON bad USING omen (id vector_l2_ops);
CREATE UNIQUE INDEX ON bad USING omen (v vector_l2_ops);
CREATE INDEX ON bad USING omen (v vector_l2_ops, free vector_l2_ops);
CREATE INDEX ON bad USING omen (v vector_l2_ops) INCLUDE (id);
CREATE INDEX ON bad USING omen (v vector_l2_ops DESC);
SELECT * FROM omen_index_status('bad');
SELECT * FROM omen_index_status('pg_class_oid_index');
SET omen.probes = -1;
SET omen.probes = 65537;
SET omen.recall = 0;
SET omen.recall = 1.01;
SET omen.engine = 'abacus';
DROP TABLE bad;
