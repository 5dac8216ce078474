import { newestAnchor } from '../domain/audit/index.ts';
import { expireDueKyc } from '../domain/kyc/expire.ts';
import { rotateSigningKeys } from '../domain/sessions/signing-keys.ts';
import { eraseDue } from '../domain/users/erasure.ts';
import { enableDue } from '../domain/users/intervention.ts';
import { Purge } from '../queues/purge.ts';
import { Reconciler } from '../queues/reconcile.ts';
import { Relay } from '../queues/relay.ts';
import { createInbox, hasInbox } from '../services/inbox.ts';
import type { Service } from '../services/service.ts';
import { Timer } from '../services/timer.ts';
import { releaseWaiting } from '../webhooks/order.ts';
import { settleStranded } from '../webhooks/standstill.ts';
import type { Runtime } from './runtime.ts';

const SECONDS = 1000;
const MINUTES = 60_000;
/** Users, attempts and the like that one round of a timer takes on. */
const ROUND = 100;

/**
 * What the housekeeping pool does besides the dead letters. Any number of processes may run it: the relay has one
 * leader, the rest locks what it touches row by row or as a whole, and a round that finds nothing costs one query.
 */
export function housekeepers(runtime: Runtime): Service[] {
  const { config, database, keyring, messaging, log } = runtime;
  const { publisher, alarms, topology, wake, redis, patientRedis, transact } = messaging;
  const fork = () => database.em.fork();
  const every = (name: string, ms: number, work: () => Promise<unknown>) => new Timer(name, ms, work, log);
  const inbox = hasInbox(config) ? { inbox: createInbox(patientRedis, config.namespace) } : {};
  return [
    new Relay({ database, publisher, alarms, topology, wake, log }),
    new Reconciler({ database, redis, alarms, namespace: config.namespace, log }),
    new Purge(database, config.retention, log),
    every('kyc expiry', MINUTES, () => expireDueKyc(fork(), transact, ROUND)),
    every('accounts that come back', MINUTES, () => enableDue(fork(), transact, ROUND)),
    every('erasure', 10 * MINUTES, () =>
      eraseDue({ em: fork(), transact, keyring, graceDays: config.erasureGraceDays, ...inbox }, ROUND),
    ),
    // Retirement counts from the round that sees it, so the rounds must not be far apart.
    every('signing keys', 10 * MINUTES, () => rotateSigningKeys({ database, keyring })),
    every('stranded deliveries', 30 * SECONDS, () => settleStranded(transact, fork())),
    every('ordered deliveries', 10 * SECONDS, () => releaseWaiting(transact, fork())),
    every('audit anchor', MINUTES, () => logAnchor(runtime)),
  ];
}

/** The newest checkpoint goes to the log stream, outside the database: `waybill audit verify --anchor` compares with it. */
async function logAnchor({ database, log }: Runtime): Promise<void> {
  const anchor = await newestAnchor(database.em.fork());
  if (anchor) log.info({ anchor: `${anchor.n}:${anchor.hash}` }, 'audit checkpoint');
}
