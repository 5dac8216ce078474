import { type Anchor, type AuditRecord, auditRecord, createSealer } from '../domain/audit/index.ts';
import { type BatchWorker, defineBatchWorker } from '../queues/worker.ts';
import type { Database } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';

/**
 * Seals what happened into the audit log: rows and their signed checkpoint in one transaction. A record that comes
 * again is already there and is passed over.
 */
export function writeAudit(deps: {
  database: Database;
  keyring: Keyring;
  /** Hears of each new checkpoint after its commit, to keep it outside the database. */
  anchor?: (anchor: Anchor) => void;
}): BatchWorker {
  const sealer = createSealer({ keys: deps.keyring.for('audit') });
  return defineBatchWorker<AuditRecord>({
    name: 'write-audit',
    pool: 'audit',
    schema: auditRecord,
    // One seals under the lock while the next encrypts and hashes.
    batch: { size: 500, waitMs: 20, parallel: 2 },
    timeoutMs: 30_000,
    async handle(items) {
      const records = items.map(({ envelope }) => envelope.data);
      const { checkpoints } = await sealer.append(deps.database.em.fork(), records);
      const newest = checkpoints.at(-1);
      if (newest) deps.anchor?.({ n: newest.n, hash: newest.hash });
    },
  });
}
