import type { Checkpoint } from './checkpoint.ts';
import { merkleRoot } from './merkle.ts';
import type { CheckedRow } from './row-reader.ts';

/** `id` is null where no row can be named: a row that is gone, a checkpoint. */
export interface Broken {
  id: string | null;
  checkpoint: number;
  why: string;
}

const rootOf = (rows: readonly CheckedRow[]) => merkleRoot(rows.map((row) => row.leaf)).toString('hex');

/** With one row too many: the one without which the root is right again. */
function oddOneOut(checkpoint: Checkpoint, rows: readonly CheckedRow[]): CheckedRow | undefined {
  if (rows.length !== checkpoint.size + 1) return undefined;
  return rows.find((odd) => rootOf(rows.filter((row) => row !== odd)) === checkpoint.root);
}

/** Rows are sealed in the order of their ids: the first that does not stand where that order puts it. */
function outOfPlace(rows: readonly CheckedRow[]): CheckedRow | undefined {
  const order = rows.map((row) => row.id).sort();
  return rows.find((row, i) => row.id !== order[i]);
}

/**
 * The first row of a checkpoint, itself proven whole, that is not as it was sealed. `rows` are those that claim this
 * checkpoint by position, cut off at two more than it has. Leaves as recorded tell who is missing or extra, leaves
 * recomputed tell who changed; only a row changed together with its recorded leaf cannot be told from its neighbours.
 */
export function brokenRow(checkpoint: Checkpoint, rows: readonly CheckedRow[]): Broken | undefined {
  const { n, size } = checkpoint;
  const broken = (row: CheckedRow | null, why: string): Broken => ({ id: row?.id ?? null, checkpoint: n, why });
  const inserted = oddOneOut(checkpoint, rows);
  for (const [index, row] of rows.entries()) {
    if (row === inserted || index >= size || row.leaf_index < index) {
      return broken(row, `the row was inserted: checkpoint ${n} was sealed without it`);
    }
    if (row.leaf_index > index) return broken(null, `row ${index} of checkpoint ${n} was removed`);
    if (!row.matches) return broken(row, 'the row was changed: its content no longer has the hash it was sealed with');
    if (row.recorded_at !== checkpoint.created_at)
      return broken(row, 'the row was changed: recorded_at is not the time of its checkpoint');
  }
  if (rows.length < size) {
    return broken(
      null,
      `a row of checkpoint ${n} was removed: ${rows.length} are left of ${size}, the last stood at ${rows.length - 1}`,
    );
  }
  if (rootOf(rows) === checkpoint.root) return undefined;
  const moved = outOfPlace(rows);
  if (moved) return broken(moved, `rows of checkpoint ${n} were reordered: this is the first that is not in its place`);
  return broken(
    null,
    `a row of checkpoint ${n} was changed or replaced together with its recorded hash: the ${size} rows no longer give the signed root`,
  );
}
