/** The catalogue as its readers see it: the built-in types, the same for everyone, and the tenant's own, by version. */
import { sql } from 'kysely';
import { z } from 'zod';
import { type EntityManager, iso } from '../../services/database.ts';
import { advanceRevision } from '../../services/revision.ts';
import type { Unit } from '../messages/emit.ts';
import { Refusal, refuse } from '../problem.ts';
import { EVENT_TYPES, type EventType, findEventType, jsonSchemaOf } from './catalogue.ts';
import { compileSchema } from './schema-check.ts';
import { type Fault, MAX_SCHEMA_BYTES } from './schema-guard.ts';

/** `order.paid`, as endpoints' patterns spell types. */
export const EVENT_TYPE_NAME = /^[a-z0-9_]+(\.[a-z0-9_]+)*$/;
/** Of its own, per tenant. */
const MAX_TYPES = 500;
/** Of one type; the oldest go. */
const MAX_VERSIONS = 100;

/** A type of event as the API shows it. */
export interface EventTypeResource {
  name: string;
  description: string;
  /** JSON Schema (draft 2020-12) of `data`. */
  schema: Record<string, unknown>;
  example: unknown;
  deprecated: boolean;
  version: number;
  /** The same for everyone, and not to be changed. */
  built_in: boolean;
  /** Whether clients may publish it. */
  publishable: boolean;
  /** Of this version; null for a built-in type. */
  created_at: string | null;
}

export interface EventTypeInput {
  description: string;
  schema: Record<string, unknown>;
  example?: Record<string, unknown> | undefined;
  deprecated?: boolean | undefined;
}

/** What was checked and can be stored; made by `prepareEventType`. */
export interface PreparedEventType {
  description: string;
  /** JSON. */
  schema: string;
  /** JSON. */
  example: string | null;
  deprecated: boolean;
}

interface Row {
  name: string;
  version: number;
  description: string;
  schema: Record<string, unknown>;
  example: unknown;
  deprecated: boolean;
  created_at: string;
}

const COLUMNS = sql`name, version, description, schema, example, deprecated, created_at`;

const resource = (row: Row): EventTypeResource => ({
  name: row.name,
  description: row.description,
  schema: row.schema,
  example: row.example,
  deprecated: row.deprecated,
  version: row.version,
  built_in: false,
  publishable: true,
  created_at: iso(row.created_at),
});

const builtIn = (type: EventType): EventTypeResource => ({
  name: type.name,
  description: type.description,
  schema: jsonSchemaOf(type),
  example: type.example,
  deprecated: false,
  version: type.contract.version,
  built_in: true,
  publishable: type.source !== 'platform',
  created_at: null,
});

const BUILT_IN = EVENT_TYPES.map(builtIn);

/** One page: the built-in types first, then the tenant's by name; and how many there are in all. */
export async function listEventTypes(
  em: EntityManager,
  tenant: string,
  { page, limit }: { page: number; limit: number },
): Promise<{ types: EventTypeResource[]; total: number }> {
  const from = (page - 1) * limit;
  const shown = BUILT_IN.slice(from, from + limit);
  const { rows } = await sql<Row>`
    select distinct on (name) ${COLUMNS} from event_types where tenant = ${tenant} order by name, version desc
    limit ${limit - shown.length} offset ${Math.max(0, from - BUILT_IN.length)}`.execute(em.getKysely());
  const count = await sql<{ total: string }>`
    select count(distinct name) as total from event_types where tenant = ${tenant}`.execute(em.getKysely());
  return { types: [...shown, ...rows.map(resource)], total: BUILT_IN.length + Number(count.rows[0]?.total ?? 0) };
}

/** The newest version of a type, or the one that is asked for, and which there are. Refuses with NOT_FOUND. */
export async function getEventType(
  em: EntityManager,
  tenant: string,
  name: string,
  version?: number,
): Promise<EventTypeResource & { versions: { version: number; created_at: string | null }[] }> {
  const known = BUILT_IN.find((type) => type.name === name);
  if (known) {
    if (version !== undefined && version !== known.version) unknownType();
    return { ...known, versions: [{ version: known.version, created_at: null }] };
  }
  const { rows } = await sql<{ version: number; created_at: string }>`
    select version, created_at from event_types where tenant = ${tenant} and name = ${name} order by version desc`.execute(
    em.getKysely(),
  );
  const versions = rows.map((row) => ({ version: row.version, created_at: iso(row.created_at) }));
  const wanted = version ?? versions[0]?.version ?? unknownType();
  const found = await sql<Row>`
    select ${COLUMNS} from event_types where tenant = ${tenant} and name = ${name} and version = ${wanted}`.execute(
    em.getKysely(),
  );
  return { ...resource(found.rows[0] ?? unknownType()), versions };
}

/** Adds a type to the tenant's catalogue. Refuses with CONFLICT a name that is taken or built in and a 501st type. */
export async function createEventType(
  unit: Unit,
  tenant: string,
  name: string,
  prepared: PreparedEventType,
): Promise<EventTypeResource> {
  notBuiltIn(name);
  await advanceRevision(unit.em, 'event_types'); // first: its row is also the lock of the catalogue
  const { rows } = await sql<{ taken: boolean; types: string }>`
    select coalesce(bool_or(name = ${name}), false) as taken, count(distinct name) as types from event_types
    where tenant = ${tenant}`.execute(unit.em.getKysely());
  if (rows[0]?.taken) refuse('CONFLICT', `there is a type ${name} already`, { field: 'name' });
  if (Number(rows[0]?.types ?? 0) >= MAX_TYPES) refuse('CONFLICT', `a tenant may have ${MAX_TYPES} types of its own`);
  return insertVersion(unit, tenant, name, 1, prepared);
}

/**
 * Gives a type a new version, which counts from the commit on; one that says what the newest says is no new version.
 * Of more than 100 the oldest go. Refuses with NOT_FOUND, or CONFLICT.
 */
export async function updateEventType(
  unit: Unit,
  tenant: string,
  name: string,
  prepared: PreparedEventType,
): Promise<EventTypeResource> {
  notBuiltIn(name);
  await advanceRevision(unit.em, 'event_types');
  const db = unit.em.getKysely();
  const { description, schema, example, deprecated } = prepared;
  const { rows } = await sql<Row & { same: boolean }>`
    select ${COLUMNS}, description = ${description} and schema::text = ${schema} and example::text is not distinct from ${example}
      and deprecated = ${deprecated} as same
    from event_types where tenant = ${tenant} and name = ${name} order by version desc limit 1`.execute(db);
  const newest = rows[0] ?? unknownType();
  if (newest.same) return resource(newest);
  await sql`delete from event_types where tenant = ${tenant} and name = ${name} and version <= ${newest.version + 1 - MAX_VERSIONS}`.execute(
    db,
  );
  return insertVersion(unit, tenant, name, newest.version + 1, prepared);
}

async function insertVersion(
  unit: Unit,
  tenant: string,
  name: string,
  version: number,
  { description, schema, example, deprecated }: PreparedEventType,
): Promise<EventTypeResource> {
  const { rows } = await sql<Row>`
    insert into event_types (tenant, name, version, description, schema, example, deprecated)
    values (${tenant}, ${name}, ${version}, ${description}, ${schema}::json,
      ${example}::json, ${deprecated})
    returning ${COLUMNS}`.execute(unit.em.getKysely());
  const [row] = rows;
  if (!row) throw new Error('an insert returned no row');
  unit.emit.audit({
    action: version === 1 ? 'event_type.created' : 'event_type.updated',
    targets: [{ type: 'event_type', id: name }],
    metadata: { tenant, version, deprecated },
  });
  return resource(row);
}

/** The newest versions of the tenant's types among `names`. */
export async function newestVersions(
  em: EntityManager,
  tenant: string,
  names: readonly string[],
): Promise<{ name: string; version: number; schema: Record<string, unknown>; deprecated: boolean }[]> {
  const { rows } = await sql<Row>`
    select distinct on (name) ${COLUMNS} from event_types where tenant = ${tenant} and name = any(${names}::text[])
    order by name, version desc`.execute(em.getKysely());
  return rows;
}

function notBuiltIn(name: string): void {
  if (findEventType(name)) refuse('CONFLICT', `${name} is built in and cannot be changed`, { field: 'name' });
}

/**
 * Compiles the schema and tries the example on it: work for the processor, so done before a transaction begins. Refuses
 * with VALIDATION_ERROR a schema that cannot be used and an example that does not fit it, with PAYLOAD_TOO_LARGE what is
 * larger than 64 KiB.
 */
export function prepareEventType({ description, schema, example, deprecated }: EventTypeInput): PreparedEventType {
  const prepared = {
    description,
    schema: JSON.stringify(schema),
    example: example === undefined ? null : JSON.stringify(example),
    deprecated: deprecated === true,
  };
  for (const field of ['schema', 'example'] as const) {
    if (Buffer.byteLength(prepared[field] ?? '') > MAX_SCHEMA_BYTES)
      refuse('PAYLOAD_TOO_LARGE', `${field} may have ${MAX_SCHEMA_BYTES} bytes`, { field });
  }
  const check = compileSchema(schema);
  if (typeof check !== 'function') throw refusalOf('schema', check);
  const fault = example && check(example, Buffer.byteLength(prepared.example ?? ''));
  if (fault) throw refusalOf('example', fault);
  return prepared;
}

/** Names the field as the other validation errors do: `schema.properties.amount.type`, `example.items[0].price`. */
function refusalOf(root: string, { path, message }: Fault): Refusal {
  const field = path.reduce<string>(
    (text, part) => (typeof part === 'number' ? `${text}[${part}]` : `${text}.${String(part)}`),
    root,
  );
  return new Refusal({
    code: 'VALIDATION_ERROR',
    message: `${field.slice(0, 300)} ${message}`,
    field: field.slice(0, 300),
  });
}

const unknownType = (): never => refuse('NOT_FOUND', 'there is no such event type');

/** What a tenant's own type takes before its JSON Schema is asked: any JSON object. */
export const anyObject = z.record(z.string(), z.unknown());
