import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { leafNow, type RawRow, rowColumns } from './row.ts';

/** A row as verification needs it. `matches`: its content still has the leaf that was recorded. */
export interface CheckedRow {
  id: string;
  checkpoint: number;
  leaf_index: number;
  recorded_at: string;
  leaf: Buffer;
  matches: boolean;
}

const PAGE = 1000;

function check(raw: RawRow): CheckedRow {
  const { id, leaf_index, recorded_at, leaf } = raw;
  return {
    id,
    checkpoint: Number(raw.checkpoint),
    leaf_index,
    recorded_at,
    leaf,
    matches: leafNow(raw)?.equals(leaf) ?? false,
  };
}

/** Rows in the order of the log, one page in memory at a time. */
export class RowReader {
  readonly #em: EntityManager;
  readonly #upTo: number;
  readonly #from: number;
  #page: CheckedRow[] = [];
  #next = 0;
  #after: RawRow | undefined;
  #ended = false;

  /** Rows of checkpoints up to `upTo`; when `from` is 1 those below it too, which should not exist. */
  constructor(em: EntityManager, range: { from: number; upTo: number }) {
    this.#em = em;
    this.#upTo = range.upTo;
    this.#from = range.from;
  }

  /** The next row if it stands before checkpoint `n`. */
  async before(n: number): Promise<CheckedRow | undefined> {
    const row = await this.#peek();
    return row && row.checkpoint < n ? row : undefined;
  }

  /** Takes up to `limit` rows of checkpoint `n`. */
  async of(n: number, limit: number): Promise<CheckedRow[]> {
    const rows: CheckedRow[] = [];
    for (let row = await this.#peek(); row?.checkpoint === n && rows.length < limit; row = await this.#peek()) {
      rows.push(row);
      this.#next += 1;
    }
    return rows;
  }

  async #peek(): Promise<CheckedRow | undefined> {
    if (this.#next >= this.#page.length && !this.#ended) await this.#read();
    return this.#page[this.#next];
  }

  async #read(): Promise<void> {
    const after = this.#after;
    const start = after
      ? sql`(checkpoint, leaf_index, recorded_at) > (${after.checkpoint}::bigint, ${after.leaf_index}::int, ${after.recorded_at}::timestamptz)`
      : this.#from > 1
        ? sql`checkpoint >= ${this.#from}`
        : sql`true`;
    const { rows } = await sql<RawRow>`
      select ${rowColumns} from audit_events e where ${start} and checkpoint <= ${this.#upTo}
      order by e.checkpoint, e.leaf_index, e.recorded_at limit ${PAGE}`.execute(this.#em.getKysely());
    this.#page = rows.map(check);
    this.#next = 0;
    this.#after = rows.at(-1);
    this.#ended = rows.length < PAGE;
  }
}
