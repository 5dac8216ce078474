import { createVerifier, verifyAuditCommand } from '../domain/audit/index.ts';
import { done, onward } from '../domain/messages/outcome.ts';
import { defineWorker, exponential } from '../queues/worker.ts';
import type { Database } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';

/** How long the next slice waits: others of the pool get their turn. */
const REST_MS = 1000;

/** Verifies a large audit log in slices, each one message: a process that dies costs the slice at hand. */
export const verifyAuditLog = (deps: { database: Database; keyring: Keyring; sliceMs?: number }) => {
  const verifier = createVerifier({
    keys: deps.keyring.for('audit'),
    ...(deps.sliceMs === undefined ? {} : { sliceMs: deps.sliceMs }),
  });
  return defineWorker({
    name: 'verify-audit',
    pool: 'housekeeping',
    takes: verifyAuditCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 120_000,
    async perform({ data, envelope }) {
      const em = deps.database.em.fork();
      const job = { operationId: envelope.id, caller: envelope.actor ?? 'system', anchor: data.anchor };
      return verifier.advance(em, job);
    },
    async handle({ performed, envelope, em }) {
      if (!('verdict' in performed)) {
        return onward(REST_MS, `verified up to checkpoint ${performed.upTo} of ${performed.of}`);
      }
      await verifier.forget(em, envelope.id);
      return done(performed.verdict);
    },
  });
};
