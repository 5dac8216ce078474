import type { Database } from '../../services/database.ts';
import { type RevisionNotices, RevisionWatch } from '../../services/revision.ts';
import { event } from '../messages/contracts.ts';
import { type EventType, findEventType } from './catalogue.ts';
import { anyObject, newestVersions } from './event-types.ts';
import { compileSchema } from './schema-check.ts';

/** Types remembered per process, those that do not exist included. */
const REMEMBERED = 2000;

/** Types as of one revision by tenant and name; `undefined` for one that the tenant does not have. */
interface Cache {
  revision: string;
  types: Map<string, EventType | undefined>;
}

export interface TypeNotices extends RevisionNotices {
  announce(name: string): Promise<boolean>;
}

/** A schema that is stored was compiled in a tenth of this. */
const COMPILE_MS = 5000;

/** Finds a type by its name. */
export type TypeLookup = (name: string) => EventType | undefined;

/**
 * What a tenant's clients may publish: the built-in types, which cost nothing, and the tenant's own, each compiled once
 * per version. Those count as long as the revision of the catalogue stands (`RevisionWatch`).
 */
export class EventTypeDirectory {
  readonly #database: Database;
  readonly #notices: TypeNotices | undefined;
  readonly #watch: RevisionWatch;
  #cache: Cache = { revision: '', types: new Map() };
  /** Compiled versions outlive a revision: most types are as they were. */
  readonly #compiled = new Map<string, EventType>();

  constructor(database: Database, notices?: TypeNotices) {
    this.#database = database;
    this.#notices = notices;
    this.#watch = new RevisionWatch(database, 'event_types', notices);
  }

  /** A look-up of these names for one tenant; others are built in or unknown to it. */
  async find(tenant: string, names: readonly string[]): Promise<TypeLookup> {
    const own = [...new Set(names)].filter((name) => findEventType(name) === undefined);
    if (own.length === 0) return findEventType;
    const revision = await this.#watch.current();
    if (revision !== this.#cache.revision) this.#cache = { revision, types: new Map() };
    const { types } = this.#cache;
    const missing = own.filter((name) => !types.has(`${tenant}\n${name}`));
    const found = new Map(own.map((name) => [name, types.get(`${tenant}\n${name}`)]));
    if (missing.length > 0) {
      const rows = await newestVersions(this.#database.em.fork(), tenant, missing);
      for (const row of rows) found.set(row.name, this.#compile(tenant, row));
      if (types.size + missing.length > REMEMBERED) types.clear();
      for (const name of missing) types.set(`${tenant}\n${name}`, found.get(name));
    }
    return (name) => findEventType(name) ?? found.get(name);
  }

  /** Tells all processes that the catalogue was changed; call it after the commit. */
  async changed(): Promise<void> {
    await this.#notices?.announce('event_types');
  }

  #compile(
    tenant: string,
    row: { name: string; version: number; schema: Record<string, unknown>; deprecated: boolean },
  ): EventType {
    const key = `${tenant}\n${row.name}\n${row.version}`;
    const known = this.#compiled.get(key);
    if (known) return known;
    const check = compileSchema(row.schema, COMPILE_MS);
    if (typeof check !== 'function') throw new Error(`${row.name} of ${tenant} cannot be checked: ${check.message}`);
    const type: EventType = {
      name: row.name,
      description: '',
      schema: anyObject,
      example: undefined,
      source: 'tenant',
      contract: event<unknown>(row.name, anyObject, row.version),
      deprecated: row.deprecated,
      check,
    };
    if (this.#compiled.size >= REMEMBERED) this.#compiled.clear();
    this.#compiled.set(key, type);
    return type;
  }
}
