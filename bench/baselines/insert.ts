import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { serve } from '../peer.ts';

/*
 * Rows like those of the audit log into a table like `audit_events`, 500 to a statement and a transaction: no broker, no
 * check, no encryption, no hash, no checkpoint.
 */

const COLUMNS = [
  ['id', 'uuid'],
  ['recorded_at', 'timestamptz'],
  ['checkpoint', 'bigint'],
  ['leaf_index', 'int'],
  ['leaf', 'bytea'],
  ['occurred_at', 'timestamptz'],
  ['action', 'text'],
  ['actor_type', 'text'],
  ['actor_id', 'text'],
  ['targets', 'jsonb'],
  ['subject', 'uuid'],
  ['tenant', 'text'],
  ['request_id', 'text'],
  ['operation_id', 'text'],
  ['metadata', 'json'],
  ['personal', 'jsonb'],
  ['outcome', 'text'],
] as const;

type Row = Record<(typeof COLUMNS)[number][0], unknown>;

serve({
  async run(options: {
    databaseUrl: string;
    table: string;
    /** 500 rows as `row_to_json` gives them. */
    sample: Row[];
    warmSeconds: number;
    seconds: number;
  }): Promise<{ count: number; seconds: number }> {
    const client = new pg.Client({ connectionString: options.databaseUrl });
    await client.connect();
    const names = COLUMNS.map(([name]) => name).join(', ');
    const text = `insert into ${options.table} (${names}) select * from unnest(${COLUMNS.map(([, type], i) => `$${i + 1}::${type}[]`).join(', ')})`;
    let checkpoint = 1_000_000_000 + Math.floor(Math.random() * 1_000_000_000);
    const insert = async () => {
      checkpoint += 1;
      const recorded = new Date().toISOString();
      const values = COLUMNS.map(([name]) =>
        options.sample.map((row, i) => {
          if (name === 'id') return randomUUID();
          if (name === 'checkpoint') return checkpoint;
          if (name === 'leaf_index') return i;
          if (name === 'recorded_at' || name === 'occurred_at') return recorded;
          const value = row[name];
          return value !== null && typeof value === 'object' ? JSON.stringify(value) : value;
        }),
      );
      await client.query({ name: 'insert', text, values });
    };
    const warmUntil = performance.now() + options.warmSeconds * 1000;
    while (performance.now() < warmUntil) await insert();
    const began = performance.now();
    let count = 0;
    while (performance.now() < began + options.seconds * 1000) {
      await insert();
      count += options.sample.length;
    }
    const seconds = (performance.now() - began) / 1000;
    await client.end();
    return { count, seconds };
  },
});
