// pgvector's package for Node.js with pg, in the text format that both speak.
// node client.cjs; libpq's environment variables, OMEN_TEST_SEED; require() finds packages through NODE_PATH.
'use strict';

const assert = require('node:assert');
const { Client } = require('pg');
const pgvector = require('pgvector/pg');
const { SparseVector } = require('pgvector');

const K = 10;
const ROWS = 200;
let state = Number(process.env.OMEN_TEST_SEED) >>> 0;

// A number of 0 .. n-1 (mulberry32).
function below(n) {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) % n;
}
const many = (n, make) => Array.from({ length: n }, make);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const eighths = () => [...many(11, () => (below(81) - 40) / 8), 0.125];

// column, operator class, operator; a drawn value; as the package takes it, and back; the exact distance.
const kinds = {
  vector: {
    column: 'vector(12)', opclass: 'vector_l2_ops', operator: '<->', draw: eighths,
    send: (value) => pgvector.toSql(value), plain: (value) => value,
    distance: (a, b) => Math.hypot(...a.map((x, i) => x - b[i])),
  },
  halfvec: {
    column: 'halfvec(12)', opclass: 'halfvec_cosine_ops', operator: '<=>', draw: eighths,
    send: (value) => pgvector.toSql(value), plain: (value) => value,
    distance: (a, b) => 1 - dot(a, b) / Math.hypot(...a) / Math.hypot(...b),
  },
  sparsevec: {
    column: 'sparsevec(40)', opclass: 'sparsevec_ip_ops', operator: '<#>',
    draw: () => [...many(39, () => (below(5) === 0 ? (1 + below(40)) / 8 : 0)), 1],
    send: (value) => pgvector.toSql(new SparseVector(value)), plain: (value) => value.toArray(),
    distance: (a, b) => -dot(a, b),
  },
  bit: {
    column: 'bit(24)', opclass: 'bit_hamming_ops', operator: '<~>', draw: () => many(24, () => below(2)).join(''),
    send: (value) => value, plain: (value) => value,
    distance: (a, b) => [...a].filter((x, i) => x !== b[i]).length,
  },
};

async function check(name, kind) {
  const client = new Client();
  await client.connect();
  try {
    await pgvector.registerTypes(client);
    const values = many(ROWS, kind.draw);
    const query = kind.draw();
    const table = `n_${name}`;
    await client.query(`CREATE TABLE ${table} (id integer, embedding ${kind.column})`);
    for (const [id, value] of values.entries()) {
      await client.query(`INSERT INTO ${table} VALUES ($1, $2)`, [id, kind.send(value)]);
    }
    await client.query(`CREATE INDEX ${table}_omen ON ${table} USING omen (embedding ${kind.opclass})`);

    const stored = await client.query(`SELECT embedding FROM ${table} ORDER BY id`);
    assert.deepStrictEqual(stored.rows.map((row) => kind.plain(row.embedding)), values);

    const distance = `embedding ${kind.operator} $1`;
    const nearest = `SELECT id, ${distance} AS distance FROM ${table} ORDER BY ${distance} LIMIT ${K}`;
    const plan = (await client.query(`EXPLAIN ${nearest}`, [kind.send(query)])).rows.map((row) => row['QUERY PLAN']).join('\n');
    assert.match(plan, new RegExp(`${table}_omen on [^]*Order By`));
    const exact = values.map((value) => kind.distance(value, query)).sort((a, b) => a - b).slice(0, K);
    for (const statement of [{ text: nearest }, { text: nearest, name: 'nearest' }]) {
      const { rows } = await client.query({ ...statement, values: [kind.send(query)] });
      assert.strictEqual(new Set(rows.map((row) => row.id)).size, K);
      rows.forEach((row, i) => {
        assert.ok(Math.abs(row.distance - exact[i]) < 1e-4, `${JSON.stringify(rows)} ${exact}`);
        assert.ok(Math.abs(kind.distance(values[row.id], query) - exact[i]) < 1e-4, `${row.id}`);
      });
    }
  } finally {
    await client.end();
  }
}

(async () => {
  for (const [name, kind] of Object.entries(kinds)) {
    try {
      await check(name, kind);
      console.log(`${name}: ok`);
    } catch (error) {
      console.log(`${name}: FAILED\n${error.stack}`);
      process.exitCode = 1;
    }
  }
})();
