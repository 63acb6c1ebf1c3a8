-- Bytes that are no value of a type are refused, not read beyond: too short for the header, for what it says, or too long; indices out of order.

CREATE FUNCTION pg_temp.report(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  state text; message text; detail text; hint text;
BEGIN
  EXECUTE query;
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN concat_ws(' / ', state, message, nullif(detail, ''), nullif(hint, ''));
END $$;

CREATE CAST (bytea AS vector) WITHOUT FUNCTION;
SELECT bytes, pg_temp.report(format('SELECT vector_norm(%L::bytea::vector)', bytes)) FROM unnest(ARRAY[
  '', '\x0100', '\x01000000', '\x020000000000803f', '\x010000000000803f0000803f', '\xffff00000000803f', '\x010000000000803f']::bytea[]) bytes;
DROP CAST (bytea AS vector);

CREATE CAST (bytea AS halfvec) WITHOUT FUNCTION;
SELECT bytes, pg_temp.report(format('SELECT l2_norm(%L::bytea::halfvec)', bytes)) FROM unnest(ARRAY[
  '', '\x0100', '\x01000000', '\x02000000003c', '\x01000000003c003c', '\xffff0000003c', '\x01000000003c']::bytea[]) bytes;
DROP CAST (bytea AS halfvec);

CREATE CAST (bytea AS sparsevec) WITHOUT FUNCTION;
SELECT bytes, pg_temp.report(format('SELECT l2_norm(%L::bytea::sparsevec)', bytes)) FROM unnest(ARRAY[
  '', '\x02000000', '\x020000000100000000000000', '\x02000000010000000000000000000000', '\x020000000100000000000000000000000000803f0000803f', '\x02000000ffffffff00000000000000000000803f',
  '\x020000000100000000000000020000000000803f', '\x020000000100000000000000ffffffff0000803f', '\x02000000020000000000000001000000000000000000803f0000803f',
  '\x02000000020000000000000001000000010000000000803f0000803f', '\xffffffff000000000000000000', '\x020000000100000000000000010000000000803f']::bytea[]) bytes;
SELECT pg_temp.report(format('SELECT %L::bytea::sparsevec::vector', bytes)) FROM unnest(ARRAY['\x020000000100000000000000ffffff7f0000803f', '\x020000000100000000000000ffffffff0000803f']::bytea[]) bytes;
DROP CAST (bytea AS sparsevec);

CREATE CAST (bytea AS bit varying) WITHOUT FUNCTION;
SELECT bytes, pg_temp.report(format('SELECT hamming_distance(%L::bytea::bit varying, B%L)', bytes, '1')) FROM unnest(ARRAY[
  '', '\x01', '\x01000000', '\x09000000ff', '\x01000000ffff', '\xffffffff', '\x0100000080']::bytea[]) bytes;
DROP CAST (bytea AS bit varying);
