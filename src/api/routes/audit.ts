import { createRoute, z } from '@hono/zod-openapi';
import {
  type Anchor,
  type AuditFilter,
  exportText,
  InvalidCursor,
  isLargeLog,
  LARGE_LOG,
  list,
  noteVerification,
  proof,
  underWay,
  type Verification,
  verify,
  verifyAuditCommand,
} from '../../domain/audit/index.ts';
import { uuid } from '../../domain/ids.ts';
import { actorText } from '../../domain/messages/envelope.ts';
import { refuse } from '../../domain/problem.ts';
import { acceptedAnswer } from '../command.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { moment } from '../moment.ts';
import { type Answer, ok } from '../respond.ts';
import { type ApiContext, type ApiRouter, createRouter } from '../router.ts';
import { acceptedResponse, cursorQuery, errorResponses, success, text, timestamp } from '../schemas.ts';

export interface AuditDeps extends ApiDeps {
  /** Rows of a log that is verified while its caller waits; 100,000 when absent. */
  largeLog?: number;
  /** How long such a verification may take, in ms, before it goes to a worker too; 30 s when absent. */
  verifyWithinMs?: number;
  /** The newest checkpoint that is known outside the database. */
  anchor?: () => Promise<Anchor | undefined>;
}

const value = z.union([z.string(), z.number(), z.boolean()]).nullable();

const entrySchema = z
  .object({
    id: uuid,
    occurred_at: timestamp,
    recorded_at: timestamp,
    action: z.string(),
    actor: z.object({ type: z.string(), id: z.string().nullable() }),
    targets: z.array(z.object({ type: z.string(), id: z.string() })),
    context: z.object({
      ip: value,
      user_agent: value,
      request_id: z.string().nullable(),
      operation_id: z.string().nullable(),
    }),
    metadata: z.record(z.string(), value),
    outcome: z.enum(['success', 'failure', 'denied']),
    tenant: z.string().nullable(),
    checkpoint: z.int(),
    leaf_index: z.int(),
  })
  .openapi('AuditEntry', {
    description:
      'A personal field is in the clear, `[erased]` once its person was erased, `[unreadable]` when its key cannot be opened, or `hmac:…` when nobody known was behind it.',
  });

const verificationSchema = z
  .object({
    intact: z.boolean(),
    rows: z.int(),
    checkpoints: z.int(),
    first_broken: z.object({ id: uuid.nullable(), checkpoint: z.int(), why: z.string() }).optional(),
  })
  .openapi('AuditVerification');

const proofSchema = z
  .object({
    event_id: uuid,
    checkpoint: z.object({
      n: z.int(),
      size: z.int(),
      root: z.string(),
      previous_hash: z.string(),
      hash: z.string(),
      kid: z.string(),
      signature: z.string(),
      created_at: timestamp,
      public_key: z.string(),
    }),
    leaf_index: z.int(),
    leaf: z.string(),
    path: z.array(z.unknown()),
  })
  .openapi('AuditProof');

const ID = '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01';
const AT = '2026-11-20T10:15:30.000Z';
const ENTRY = {
  id: ID,
  occurred_at: AT,
  recorded_at: '2026-11-20T10:15:30.020Z',
  action: 'user.registered',
  actor: { type: 'anonymous', id: null },
  targets: [{ type: 'user', id: '019a9f3e-6b00-7a11-8e22-3f4455667788' }],
  context: { ip: null, user_agent: null, request_id: '019a9f3e-6c00-7000-8000-000000000001', operation_id: null },
  metadata: { email: 'ada@example.com' },
  outcome: 'success',
  tenant: null,
  checkpoint: 412,
  leaf_index: 3,
};
const HASH = '5f'.repeat(32);

const filters = z.object({
  actor: text({ max: 255 }).optional().openapi({ description: 'The id of whoever did it.' }),
  target: text({ max: 255 }).optional().openapi({ description: 'The id of what it was done to.' }),
  action: text({ max: 100 }).optional(),
  operation_id: text({ max: 255 }).optional(),
  occurred_after: moment.optional().openapi({ description: 'Itself included.' }),
  occurred_before: moment.optional().openapi({ description: 'Itself excluded.' }),
});

const shared = { tags: ['Audit'], security: [{ bearerAuth: [] }], middleware: forScope('audit:read') };

const routes = {
  list: createRoute({
    ...shared,
    method: 'get',
    path: '/admin/audit',
    operationId: 'listAudit',
    summary: 'The audit log, the newest first',
    request: { query: cursorQuery.extend(filters.shape) },
    responses: {
      200: success(z.array(entrySchema), { pagination: 'cursor', example: [ENTRY] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  verify: createRoute({
    ...shared,
    method: 'get',
    path: '/admin/audit/verify',
    operationId: 'verifyAudit',
    summary: 'Whether the audit log is whole',
    description:
      'Reads the whole log: rows, leaves, Merkle roots, the chain of checkpoints and their signatures, up to the first that does not hold. A log of more than 100,000 rows, or one that cannot be read in 30 s, is verified by a worker: 202, and the operation at `Location` has the verification as its `result`. Asked for again before that is finished, the same operation is answered.',
    responses: {
      200: success(verificationSchema, { example: { intact: true, rows: 4120, checkpoints: 412 } }),
      ...acceptedResponse(verifyAuditCommand.type),
      ...errorResponses(401, 403, 429, 503),
    },
  }),
  proof: createRoute({
    ...shared,
    method: 'get',
    path: '/admin/audit/{id}/proof',
    operationId: 'proveAudit',
    summary: 'The proof that a row is in the log',
    description:
      'An inclusion proof of RFC 6962, to be checked without the log: leaf, path, root, hash and signature of its checkpoint.',
    request: { params: z.object({ id: uuid.toLowerCase() }) },
    responses: {
      200: success(proofSchema, {
        example: {
          event_id: ID,
          checkpoint: {
            n: 412,
            size: 2,
            root: HASH,
            previous_hash: HASH,
            hash: HASH,
            kid: 'a1b2c3d4',
            signature: 'MEUCIQ…',
            created_at: AT,
            public_key: '-----BEGIN PUBLIC KEY-----…',
          },
          leaf_index: 1,
          leaf: HASH,
          path: [{ side: 'left', hash: HASH }],
        },
      }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
  export: createRoute({
    ...shared,
    method: 'get',
    path: '/admin/audit/export',
    operationId: 'exportAudit',
    summary: 'The audit log as a file, the newest first',
    description: 'NDJSON, or CSV (RFC 4180) with a header. The export itself is recorded in the log.',
    request: { query: filters.extend({ format: z.enum(['ndjson', 'csv']).default('ndjson') }) },
    responses: {
      200: {
        description: 'One row a line.',
        content: {
          'application/x-ndjson': { schema: z.string(), example: `${JSON.stringify(ENTRY)}\n` },
          'text/csv': { schema: z.string() },
        },
      },
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
};

/** `/admin/audit`: the sealed log of who did what, for admins and API keys. */
export function auditRoutes(deps: AuditDeps): ApiRouter {
  const router = createRouter();
  const keys = deps.keyring.for('audit');

  router.openapi(routes.list, async (c) => {
    const query = c.req.valid('query');
    const { rows, next_cursor } = await list(deps.database.em.fork(), query, keys).catch((error: unknown) => {
      if (error instanceof InvalidCursor)
        refuse('VALIDATION_ERROR', 'cursor is not one of this list', { field: 'cursor' });
      throw error;
    });
    return ok(c, rows, { pagination: { limit: query.limit, has_more: next_cursor !== null, next_cursor } });
  });

  router.openapi(routes.verify, async (c) => {
    const found = await verifiedAtOnce(deps);
    return found ? ok(c, found) : verifyByWorker(c, deps);
  });

  router.openapi(routes.proof, async (c) => {
    const found = await proof(deps.database.em.fork(), c.req.valid('param').id);
    return ok(c, found ?? refuse('NOT_FOUND', 'there is no such row in the audit log'));
  });

  router.openapi(routes.export, async (c) => {
    const { format, ...filter } = c.req.valid('query');
    await deps.transact(c.get('context'), async ({ emit }) => {
      const asked = Object.entries(filter).filter(([, given]) => given !== undefined) as [string, string][];
      emit.audit({ action: 'audit.exported', metadata: { format, ...Object.fromEntries(asked) } });
    });
    return c.body(
      await streamOf(exportText(deps.database.em.fork(), filter satisfies AuditFilter, keys, format)),
      200,
      {
        'Content-Type': format === 'csv' ? 'text/csv; charset=utf-8; header=present' : 'application/x-ndjson',
        'Content-Disposition': `attachment; filename="audit.${format}"`,
      },
    );
  });

  return router;
}

class OutOfTime extends Error {
  override name = 'OutOfTime';
}

/**
 * The verification of a log that is small enough to wait for; `undefined` for any other. It asks for its time between
 * pages, so that it ends itself and not only the wait for it.
 */
async function verifiedAtOnce(deps: AuditDeps): Promise<Verification | undefined> {
  const end = performance.now() + (deps.verifyWithinMs ?? 30_000);
  const onProgress = () => {
    if (performance.now() > end) throw new OutOfTime();
  };
  if (await isLargeLog(deps.database.em.fork(), deps.largeLog ?? LARGE_LOG)) return undefined;
  try {
    const anchor = await deps.anchor?.();
    return await verify(deps.database.em.fork(), {
      keys: deps.keyring.for('audit'),
      onProgress,
      ...(anchor ? { anchor } : {}),
    });
  } catch (error) {
    if (error instanceof OutOfTime) return undefined;
    throw error;
  }
}

/** Hands the verification to a worker, or points to the one that the caller has under way. */
async function verifyByWorker(c: ApiContext, deps: AuditDeps): Promise<Answer> {
  const { type } = verifyAuditCommand;
  const caller = actorText(c.get('context').actor);
  const known = await underWay(deps.database.em.fork(), caller, deps.config.retention.operations);
  if (known) return acceptedAnswer(c, known, type);
  const operationId = deps.operationIds.issue(type);
  const context = { ...c.get('context'), correlationId: operationId };
  const command = { anchor: (await deps.anchor?.()) ?? null };
  await deps.commands.send(verifyAuditCommand, command, context, { operationId, waitMs: 0 });
  await noteVerification(deps.database.em.fork(), operationId, caller);
  return acceptedAnswer(c, operationId, type);
}

/** Lines as a stream of larger chunks. The first is read before the answer begins, so that a fault there is still a 503. */
async function streamOf(lines: AsyncGenerator<string>): Promise<ReadableStream<Uint8Array>> {
  const chunks = chunked(lines);
  const first = await chunks.next();
  async function* all() {
    if (!first.done) yield first.value;
    yield* chunks;
  }
  return ReadableStream.from(all()) as ReadableStream<Uint8Array>;
}

const CHUNK_CHARACTERS = 32_768;

async function* chunked(lines: AsyncGenerator<string>): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder();
  let waiting = '';
  for await (const line of lines) {
    waiting += line;
    if (waiting.length < CHUNK_CHARACTERS) continue;
    yield encoder.encode(waiting);
    waiting = '';
  }
  if (waiting) yield encoder.encode(waiting);
}
