import type { KeyObject } from 'node:crypto';
import { sql } from 'kysely';
import type { Database, EntityManager } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import { SharedLook } from '../services/shared-look.ts';
import { loadSecrets, type OpenedSecret, type SignatureSetting, schemesOf } from './secrets.ts';
import type { SigningKey } from './signature.ts';

/*
 * Every endpoint with its keys, in memory, as of one revision.
 *
 * States: empty (before the first `refresh`) → current as of `#state.revision` → current as of a later one. A change of
 * an endpoint or a secret bumps the revision in its own transaction (`bumpRevision`), so a `refresh` that finds the
 * revision unchanged, and no secret expired since, knows that nothing changed. Only `#load` replaces `#state`.
 */

/** An endpoint as fan-out and delivery need it. Deleted ones are in no directory. */
export interface ActiveEndpoint {
  id: string;
  tenant: string;
  url: string;
  eventTypes: string[];
  /** Events must share one of them; empty: all events. */
  channels: string[];
  headers: Record<string, string>;
  timeoutMs: number;
  /** Requests per second; null: as many as it takes. */
  rateLimit: number | null;
  /** Events with an ordering key go out one at a time per key. */
  ordered: boolean;
  status: 'enabled' | 'disabled';
  /** What signs, newest first. Empty only when none of its secrets can be opened: nothing may be sent to it then. */
  keys: SigningKey[];
  /** The key of `X-Webhook-Signature` (the newest v1 secret); undefined unless the endpoint wants that header. */
  hexKey: KeyObject | undefined;
}

/** Endpoints per query of a reload. */
const PAGE = 500;
/** Answers of `matching` that are remembered; types come from outside, so their number must have an end. */
const MAX_REMEMBERED = 10_000;

interface State {
  revision: string;
  /** When the first loaded secret expires, as PostgreSQL's text. */
  nextExpiry: string | null;
  byId: Map<string, ActiveEndpoint>;
  byTenant: Map<string, ActiveEndpoint[]>;
  secrets: Map<string, OpenedSecret>;
  /** Results of `matching`, by tenant and type. */
  matched: Map<string, ActiveEndpoint[]>;
}

interface EndpointRow {
  id: string;
  tenant: string;
  url: string;
  event_types: string[];
  channels: string[];
  headers: Record<string, string>;
  timeout_ms: number;
  rate_limit: number | null;
  ordered: boolean;
  status: 'enabled' | 'disabled';
  signature: SignatureSetting;
  hex_signature: boolean;
}

export class EndpointDirectory {
  readonly #database: Database;
  readonly #keyring: Keyring;
  readonly #onUnreadable: (endpointId: string, error: Error) => void;
  readonly #looks = new SharedLook(() => this.#look());
  #state: State | undefined;

  /** `onUnreadable` hears of each secret that cannot be opened, at each reload. */
  constructor(
    database: Database,
    keyring: Keyring,
    onUnreadable: (endpointId: string, error: Error) => void = () => undefined,
  ) {
    this.#database = database;
    this.#keyring = keyring;
    this.#onUnreadable = onUnreadable;
  }

  /**
   * Makes the directory show everything that was committed before this call: one cheap query when nothing changed, a
   * reload of all endpoints otherwise. Rejects when PostgreSQL cannot be asked; what was loaded then stays.
   */
  refresh(): Promise<void> {
    return this.#looks.now();
  }

  /** The endpoint, disabled or not; undefined when it was deleted or never was. */
  get(id: string): ActiveEndpoint | undefined {
    return this.#state?.byId.get(id);
  }

  /**
   * The tenant's endpoints that want events of `type` on `channels`, oldest first; disabled ones too. The list may be
   * shared: read only.
   */
  matching(tenant: string, type: string, channels: readonly string[] = []): ActiveEndpoint[] {
    const ofType = this.#ofType(tenant, type);
    return ofType.every((endpoint) => endpoint.channels.length === 0)
      ? ofType
      : ofType.filter((endpoint) => shares(endpoint.channels, channels));
  }

  #ofType(tenant: string, type: string): ActiveEndpoint[] {
    const state = this.#state;
    const endpoints = state?.byTenant.get(tenant);
    if (state === undefined || endpoints === undefined) return [];
    const key = `${tenant}\n${type}`;
    const remembered = state.matched.get(key);
    if (remembered !== undefined) return remembered;
    const found = endpoints.filter((endpoint) => matches(endpoint.eventTypes, type));
    if (state.matched.size >= MAX_REMEMBERED) state.matched.clear();
    state.matched.set(key, found);
    return found;
  }

  async #look(): Promise<void> {
    const em = this.#database.em.fork();
    const { rows } = await sql<{ revision: string; expired: boolean | null }>`
      select revision, now() >= ${this.#state?.nextExpiry ?? null}::timestamptz as expired
      from revisions where name = 'endpoints'`.execute(em.getKysely());
    const [row] = rows;
    if (this.#state && row && row.revision === this.#state.revision && row.expired !== true) return;
    // One snapshot for all pages and the revision itself: an endpoint is never seen without its secrets.
    this.#state = await em.transactional((snapshot) => this.#load(snapshot), {
      isolationLevel: 'repeatable read',
      readOnly: true,
    });
  }

  async #load(em: EntityManager): Promise<State> {
    const db = em.getKysely();
    const revision = await sql<{ revision: string }>`select revision from revisions where name = 'endpoints'`.execute(
      db,
    );
    const state: State = {
      revision: revision.rows[0]?.revision ?? '',
      nextExpiry: null,
      byId: new Map(),
      byTenant: new Map(),
      secrets: new Map(),
      matched: new Map(),
    };
    let after: string | null = null;
    for (;;) {
      const page: EndpointRow[] = (
        await sql<EndpointRow>`
          select id, tenant, url, event_types, channels, headers, timeout_ms, rate_limit, ordered, status, signature, hex_signature
          from webhook_endpoints
          where deleted_at is null and (${after}::uuid is null or id > ${after}::uuid)
          order by id limit ${PAGE}`.execute(db)
      ).rows;
      await this.#add(em, state, page);
      const last = page.at(-1);
      if (last === undefined || page.length < PAGE) return state;
      after = last.id;
    }
  }

  async #add(em: EntityManager, state: State, page: EndpointRow[]): Promise<void> {
    if (page.length === 0) return;
    const ids = page.map((row) => row.id);
    const known = this.#state?.secrets ?? new Map<string, OpenedSecret>();
    const { byEndpoint, nextExpiry } = await loadSecrets(em, this.#keyring, ids, known, this.#onUnreadable);
    state.nextExpiry = earlier(state.nextExpiry, nextExpiry);
    for (const row of page) {
      const secrets = byEndpoint.get(row.id) ?? [];
      for (const secret of secrets) state.secrets.set(secret.id, secret);
      const endpoint = activeEndpoint(row, secrets);
      state.byId.set(endpoint.id, endpoint);
      const ofTenant = state.byTenant.get(endpoint.tenant);
      if (ofTenant) ofTenant.push(endpoint);
      else state.byTenant.set(endpoint.tenant, [endpoint]);
    }
  }
}

/** Tells every directory that something changed; call it last in the transaction of the change, the row is shared. */
export async function bumpRevision(em: EntityManager): Promise<void> {
  await sql`update revisions set revision = revision + 1 where name = 'endpoints'`.execute(em.getKysely());
}

/**
 * Whether an event of `type` is wanted: a pattern is the type itself, `kyc.*` (every type below `kyc`, at any depth,
 * not `kyc` itself) or `*`. No patterns at all want everything.
 */
export function matches(patterns: readonly string[], type: string): boolean {
  return (
    patterns.length === 0 ||
    patterns.some(
      (pattern) =>
        pattern === '*' || pattern === type || (pattern.endsWith('.*') && type.startsWith(pattern.slice(0, -1))),
    )
  );
}

/** Whether an event on `channels` is for an endpoint that asks for `wanted`: for all, or for one of them at least. */
export function shares(wanted: readonly string[], channels: readonly string[]): boolean {
  return wanted.length === 0 || wanted.some((channel) => channels.includes(channel));
}

function activeEndpoint(row: EndpointRow, secrets: OpenedSecret[]): ActiveEndpoint {
  const schemes = schemesOf(row.signature);
  return {
    id: row.id,
    tenant: row.tenant,
    url: row.url,
    eventTypes: row.event_types,
    channels: row.channels,
    headers: row.headers,
    timeoutMs: row.timeout_ms,
    rateLimit: row.rate_limit,
    ordered: row.ordered,
    status: row.status,
    keys: secrets.map(({ signing }) => signing).filter(({ scheme }) => schemes.includes(scheme)),
    hexKey: row.hex_signature ? secrets.find(({ hex }) => hex !== undefined)?.hex : undefined,
  };
}

function earlier(a: string | null, b: string | null): string | null {
  if (a === null || b === null) return a ?? b;
  return Date.parse(a) <= Date.parse(b) ? a : b;
}
