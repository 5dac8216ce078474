import { isDeepStrictEqual } from 'node:util';
import { sql } from 'kysely';
import { webhookEndpointDisabled } from '../domain/events/webhook-events.ts';
import { newId } from '../domain/ids.ts';
import type { Unit } from '../domain/messages/emit.ts';
import { actorText, SYSTEM } from '../domain/messages/envelope.ts';
import { refuse } from '../domain/problem.ts';
import { type EntityManager, iso } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import type { AllowNetworks } from './addresses.ts';
import { bumpRevision } from './directory.ts';
import {
  applySettings,
  DEFAULT_SETTINGS,
  type EndpointChange,
  type EndpointSettings,
  type NewEndpoint,
} from './endpoint-settings.ts';
import { completeSecrets, createSecrets, rotateSecrets, type ShownSecrets } from './secrets.ts';
import { failUnfinished, holdPending, PAGE, releaseHeld } from './standstill.ts';

/*
 * The life of an endpoint: enabled ⇄ disabled → deleted (soft, for good). Each use case locks the endpoint's row first,
 * then the oldest of its deliveries (the others follow, see standstill.ts), and bumps the directory's revision last.
 */

/** An endpoint as the API shows it. */
export interface Endpoint extends EndpointSettings {
  id: string;
  status: 'enabled' | 'disabled';
  disabled_reason: string | null;
  created_at: string;
  updated_at: string;
}

/** With what is shown once: `secret` (`whsec_…`) of v1, `public_key` (`whpk_…`) of v1a. */
export interface EndpointWithSecrets extends Endpoint {
  secret?: string;
  public_key?: string;
}

export interface EndpointDeps {
  keyring: Keyring;
  /** Networks that endpoints may be in although they are forbidden. */
  allow: AllowNetworks;
}

interface Row extends Endpoint {
  version: number;
}

const COLUMNS = sql`id, url, description, event_types, channels, headers, rate_limit, ordered, timeout_ms, status, disabled_reason,
  signature, hex_signature, metadata, version, created_at, updated_at`;

/** Creates an endpoint with its first secrets. Refuses with VALIDATION_ERROR what `applySettings` refuses. */
export async function createEndpoint(
  unit: Unit,
  { tenant, ...input }: { tenant: string; endpoint: NewEndpoint },
  deps: EndpointDeps,
): Promise<EndpointWithSecrets> {
  const { url, status = 'enabled' } = input.endpoint;
  const settings = applySettings({ ...DEFAULT_SETTINGS, url }, input.endpoint, deps.allow);
  const { rows } = await sql<Row>`
    insert into webhook_endpoints (id, tenant, url, description, event_types, channels, headers, rate_limit, ordered, timeout_ms, status, disabled_reason, signature, hex_signature, metadata, created_by)
    values (${newId()}, ${tenant}, ${settings.url}, ${settings.description}, ${settings.event_types}, ${settings.channels}, ${JSON.stringify(settings.headers)}::jsonb,
      ${settings.rate_limit}, ${settings.ordered}, ${settings.timeout_ms}, ${status}, ${status === 'disabled' ? disabledBy(unit) : null}, ${settings.signature}, ${settings.hex_signature}, ${JSON.stringify(settings.metadata)}::jsonb, ${actorText(unit.emit.context.actor)})
    returning ${COLUMNS}`.execute(unit.em.getKysely());
  const row = only(rows);
  const shown = await createSecrets(unit.em, deps.keyring, row.id, row.signature);
  audit(unit, 'created', row, { tenant, signature: row.signature });
  await bumpRevision(unit.em);
  return { ...view(row), ...named(shown) };
}

export const ENDPOINT_SORTS = ['created_at', 'updated_at', 'url'] as const;

export interface EndpointQuery {
  page: number;
  limit: number;
  sort?: (typeof ENDPOINT_SORTS)[number] | undefined;
  order: 'asc' | 'desc';
  status?: 'enabled' | 'disabled' | undefined;
}

/** One page of a tenant's endpoints, and how many there are. */
export async function listEndpoints(
  em: EntityManager,
  tenant: string,
  { page, limit, sort = 'created_at', order, status }: EndpointQuery,
): Promise<{ rows: Endpoint[]; total: number }> {
  const db = em.getKysely();
  const where = sql`tenant = ${tenant} and deleted_at is null and ${status ? sql`status = ${status}` : sql`true`}`;
  const direction = order === 'asc' ? sql`asc` : sql`desc`;
  const counted = await sql<{ n: string }>`select count(*) as n from webhook_endpoints where ${where}`.execute(db);
  const { rows } = await sql<Row>`
    select ${COLUMNS} from webhook_endpoints where ${where}
    order by ${sql.ref(sort)} ${direction}, id ${direction} limit ${limit} offset ${(page - 1) * limit}`.execute(db);
  return { rows: rows.map(view), total: Number(counted.rows[0]?.n ?? 0) };
}

/** Refuses with NOT_FOUND an endpoint that is deleted or another tenant's. */
export async function getEndpoint(em: EntityManager, tenant: string, id: string): Promise<Endpoint> {
  const { rows } = await sql<Row>`
    select ${COLUMNS} from webhook_endpoints where id = ${id} and tenant = ${tenant} and deleted_at is null`.execute(
    em.getKysely(),
  );
  return view(rows[0] ?? unknownEndpoint());
}

/**
 * Changes what is given and leaves the rest. `status: 'enabled'` also releases what was held, `'disabled'` holds what
 * waits. A `signature` that comes to name a scheme without a secret gets one, which is in the answer. Refuses with
 * NOT_FOUND, or VALIDATION_ERROR as creation does.
 */
export async function updateEndpoint(
  unit: Unit,
  { tenant, id, change }: { tenant: string; id: string; change: EndpointChange },
  deps: EndpointDeps,
): Promise<EndpointWithSecrets> {
  const before = await lock(unit, tenant, id);
  const settings = applySettings(before, change, deps.allow);
  const status = change.status ?? before.status;
  const changed = settingsChanged(before, settings);
  const turned = status !== before.status;
  let after = before;
  let shown: ShownSecrets = {};
  if (changed.length > 0 || turned) {
    const reason = status === 'enabled' ? null : turned ? disabledBy(unit) : before.disabled_reason;
    const { rows } = await sql<Row>`
      update webhook_endpoints set url = ${settings.url}, description = ${settings.description}, event_types = ${settings.event_types}, channels = ${settings.channels},
        headers = ${JSON.stringify(settings.headers)}::jsonb, rate_limit = ${settings.rate_limit}, ordered = ${settings.ordered}, timeout_ms = ${settings.timeout_ms}, status = ${status}, disabled_reason = ${reason},
        signature = ${settings.signature}, hex_signature = ${settings.hex_signature}, metadata = ${JSON.stringify(settings.metadata)}::jsonb,
        version = version + 1, updated_at = clock_timestamp(), failing_since = ${turned ? sql`null` : sql`failing_since`}
      where id = ${id} returning ${COLUMNS}`.execute(unit.em.getKysely());
    after = only(rows);
    shown = await completeSecrets(unit.em, deps.keyring, id, after.signature);
  }
  if (changed.length > 0) audit(unit, 'updated', after, { changed: changed.join(',') });
  if (turned && status === 'disabled') {
    const held = await holdPending(unit.em, id);
    audit(unit, 'disabled', after, { reason: after.disabled_reason ?? '', held, ...rest(held) });
  }
  if (change.status === 'enabled') {
    const released = await releaseHeld(unit, id);
    if (turned) audit(unit, 'enabled', after, { released, ...rest(released) });
  }
  if (after !== before) await bumpRevision(unit.em);
  return { ...view(after), ...named(shown) };
}

/**
 * Deletes an endpoint for good: it is in no list any more, its secrets are destroyed, and what was still to be
 * delivered has failed with the reason "endpoint deleted". Refuses with NOT_FOUND.
 */
export async function deleteEndpoint(unit: Unit, { tenant, id }: { tenant: string; id: string }): Promise<void> {
  const row = await lock(unit, tenant, id);
  const db = unit.em.getKysely();
  await sql`
    update webhook_endpoints set deleted_at = clock_timestamp(), updated_at = clock_timestamp(), version = version + 1
    where id = ${id}`.execute(db);
  await sql`delete from webhook_secrets where endpoint_id = ${id}`.execute(db);
  const failed = await failUnfinished(unit.em, id, 'endpoint deleted');
  audit(unit, 'deleted', row, { failed, ...rest(failed) });
  await bumpRevision(unit.em);
}

/** Gives an endpoint new secrets; the old ones sign beside them for `overlapSeconds`. Refuses with NOT_FOUND. */
export async function rotateEndpointSecret(
  unit: Unit,
  { tenant, id, overlapSeconds }: { tenant: string; id: string; overlapSeconds: number },
  keyring: Keyring,
): Promise<EndpointWithSecrets> {
  const row = await lock(unit, tenant, id);
  const shown = await rotateSecrets(unit.em, keyring, id, row.signature, overlapSeconds);
  audit(unit, 'secret_rotated', row, { overlap_seconds: overlapSeconds });
  await bumpRevision(unit.em);
  return { ...view(row), ...named(shown) };
}

/**
 * Disables an endpoint for what it did (410, days of failures) and tells of it: event `webhook.endpoint.disabled`,
 * audit record, and its waiting deliveries become held. False, and nothing done, when it is disabled or deleted already.
 * Call it before the same transaction touches deliveries of the endpoint, or it may deadlock with a change by hand.
 */
export async function disableEndpoint(unit: Unit, id: string, reason: string): Promise<boolean> {
  const { rows } = await sql<Row & { tenant: string }>`
    update webhook_endpoints set status = 'disabled', disabled_reason = ${reason.slice(0, 500)}, version = version + 1, updated_at = clock_timestamp()
    where id = ${id} and status = 'enabled' and deleted_at is null returning ${COLUMNS}, tenant`.execute(
    unit.em.getKysely(),
  );
  const row = rows[0];
  if (row === undefined) return false;
  const held = await holdPending(unit.em, id);
  const why = row.disabled_reason ?? '';
  unit.emit.event(
    webhookEndpointDisabled,
    { endpoint_id: id, url: row.url, reason: why, disabled_at: iso(row.updated_at) },
    { tenant: row.tenant, subject: id, sequence: row.version },
  );
  audit(unit, 'disabled', row, { reason: why, held, ...rest(held) }, SYSTEM);
  await bumpRevision(unit.em);
  return true;
}

async function lock(unit: Unit, tenant: string, id: string): Promise<Row> {
  const { rows } = await sql<Row>`
    select ${COLUMNS} from webhook_endpoints
    where id = ${id} and tenant = ${tenant} and deleted_at is null for update`.execute(unit.em.getKysely());
  return rows[0] ?? unknownEndpoint();
}

const SETTINGS = ['url', ...(Object.keys(DEFAULT_SETTINGS) as (keyof typeof DEFAULT_SETTINGS)[])] as const;

const settingsChanged = (before: EndpointSettings, after: EndpointSettings): string[] =>
  SETTINGS.filter((name) => !isDeepStrictEqual(before[name], after[name]));

type Action = 'created' | 'updated' | 'deleted' | 'disabled' | 'enabled' | 'secret_rotated';

/** Of the URL only the host: its path and query may hold a key, and the log is for ever. */
function audit(
  unit: Unit,
  action: Action,
  row: Row,
  metadata: Record<string, string | number>,
  actor = unit.emit.context.actor,
): void {
  unit.emit.audit({
    action: `webhook.endpoint.${action}`,
    actor,
    targets: [{ type: 'webhook_endpoint', id: row.id }],
    metadata: { host: new URL(row.url).host, ...metadata },
  });
}

/** A full page of deliveries is not all: housekeeping does what is left. */
const rest = (done: number): { rest?: string } => (done < PAGE ? {} : { rest: 'follows' });

const disabledBy = (unit: Unit): string => `disabled by ${actorText(unit.emit.context.actor)}`;

const named = ({ secret, publicKey }: ShownSecrets): Pick<EndpointWithSecrets, 'secret' | 'public_key'> => ({
  ...(secret === undefined ? {} : { secret }),
  ...(publicKey === undefined ? {} : { public_key: publicKey }),
});

const view = (row: Row): Endpoint => ({
  id: row.id,
  url: row.url,
  description: row.description,
  event_types: row.event_types,
  channels: row.channels,
  headers: row.headers,
  rate_limit: row.rate_limit,
  ordered: row.ordered,
  timeout_ms: row.timeout_ms,
  status: row.status,
  disabled_reason: row.disabled_reason,
  signature: row.signature,
  hex_signature: row.hex_signature,
  metadata: row.metadata,
  created_at: iso(row.created_at),
  updated_at: iso(row.updated_at),
});

const unknownEndpoint = (): never => refuse('NOT_FOUND', 'there is no such endpoint');

function only<T>(rows: T[]): T {
  const row = rows[0];
  if (row === undefined) throw new Error('a statement on a locked row returned nothing');
  return row;
}
