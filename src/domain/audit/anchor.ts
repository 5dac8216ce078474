import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';

/** What names the whole log up to a checkpoint; kept outside the database, it catches a log that was cut off at its end. */
export interface Anchor {
  n: number;
  hash: string;
}

/** The newest checkpoint as an anchor for `verify`; `undefined` while the log is empty. */
export async function newestAnchor(em: EntityManager): Promise<Anchor | undefined> {
  const { rows } = await sql<{ n: string; hash: Buffer }>`
    select c.n, c.hash from audit_checkpoints c order by c.n desc limit 1`.execute(em.getKysely());
  const row = rows[0];
  return row && { n: Number(row.n), hash: row.hash.toString('hex') };
}
