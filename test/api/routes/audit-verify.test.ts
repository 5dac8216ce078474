import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import { type AuditDeps, auditRoutes } from '../../../src/api/routes/audit.ts';
import { operationRoutes } from '../../../src/api/routes/operations.ts';
import { createSealer, createVerifier, isLargeLog, type Verification } from '../../../src/domain/audit/index.ts';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import { Purge } from '../../../src/queues/purge.ts';
import type { AnyWorker } from '../../../src/queues/worker.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { verifyAuditLog } from '../../../src/workers/verify-audit.ts';
import { record, records, tamper } from '../../domain/audit/log.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

const [ADA, BOB] = [newId(), newId()];
const KEYRING = new Keyring(Buffer.alloc(32, 4));
let h: Harness;
let worker: AnyWorker;
/** Ids by checkpoint: four of 3 rows. */
let ids: string[][];

beforeAll(async () => {
  // Which commands there are must be known before there is a database.
  h = await createHarness({}, [verifyAuditLog({ keyring: KEYRING, database: undefined as never })]);
  worker = verifyAuditLog({ keyring: KEYRING, database: h.database, sliceMs: 0 });
});
afterAll(() => h.close());
beforeEach(async () => {
  await tamper(h.database.em.fork(), (tx) =>
    sql`truncate audit_events, audit_checkpoints, audit_keys, audit_verifications`.execute(tx.getKysely()),
  );
  const sealer = createSealer({ keys: KEYRING.for('audit') });
  ids = [];
  for (let n = 0; n < 4; n += 1) {
    const { recorded } = await sealer.append(h.database.em.fork(), records(3));
    ids.push(recorded.map(({ id }) => id));
  }
});

interface Answered<T> {
  status: number;
  headers: Headers;
  body: { data: T; error: { code: string } };
}
interface Operation {
  operation_id: string;
  type: string;
  status: string;
  result?: Verification;
}

function client(options: Partial<AuditDeps> = {}) {
  const deps: AuditDeps = {
    config: h.config,
    log: h.log,
    database: h.database,
    keyring: KEYRING,
    operationIds: new OperationIds(KEYRING.for('operation-id').current().key),
    transact: h.messaging.transact,
    commands: h.messaging.commands,
    ...options,
  };
  const app = createApp(
    {
      config: h.config,
      log: h.log,
      authenticate: async (token) => {
        const [role = '', userId = ADA] = token.split('.');
        return { userId, sessionId: userId, role };
      },
    },
    { api: [auditRoutes(deps), operationRoutes(deps)] },
  );
  return async <T>(path: string, token = 'admin'): Promise<Answered<T>> => {
    const answer = await app.request(path, { headers: { authorization: `Bearer ${token}` } });
    return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Answered<T>['body'] };
  };
}
const VERIFY = '/api/v1/admin/audit/verify';
const kept = async () => {
  const { rows } = await sql<{ operation_id: string; sealed_position: Buffer | null }>`
    select operation_id, sealed_position from audit_verifications order by operation_id`.execute(
    h.database.em.fork().getKysely(),
  );
  return rows;
};
const change = (id: string | undefined) =>
  tamper(h.database.em.fork(), (tx) =>
    sql`update audit_events set action = 'user.forgotten' where id = ${id}`.execute(tx.getKysely()),
  );

describe('which way', () => {
  it('is told from the sizes of the checkpoints', async () => {
    const em = h.database.em.fork();
    expect(await isLargeLog(em, 12)).toBe(false);
    expect(await isLargeLog(em, 11)).toBe(true);
    expect(await isLargeLog(em, 2)).toBe(true);
    expect(await isLargeLog(em)).toBe(false);
  });

  it('a log at the limit is verified at once', async () => {
    const { status, body } = await client({ largeLog: 12 })<Verification>(VERIFY);
    expect([status, body.data]).toEqual([200, { intact: true, rows: 12, checkpoints: 4 }]);
    expect(await kept()).toEqual([]);
  });

  it.each<[string, Partial<AuditDeps>]>([
    ['a larger one', { largeLog: 11 }],
    ['one that takes too long', { verifyWithinMs: -1 }],
  ])('%s is an operation, the same until it is finished, and for each caller another', async (_, options) => {
    const call = client(options);
    const { status, headers, body } = await call<Operation>(VERIFY);
    const { operation_id } = body.data;
    expect([status, body.data]).toEqual([202, { operation_id, type: 'audit.verify', status: 'accepted' }]);
    expect(headers.get('location')).toBe(`/api/v1/operations/${operation_id}`);
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await call<Operation>(`/api/v1/operations/${operation_id}`)).body.data).toMatchObject({
      type: 'audit.verify',
      status: 'accepted',
    });
    expect((await call<Operation>(VERIFY)).body.data.operation_id).toBe(operation_id);
    expect((await call<Operation>(VERIFY, `admin.${BOB}`)).body.data.operation_id).not.toBe(operation_id);
    expect((await call(VERIFY, 'operator')).status).toBe(403);
  });
});

describe('the verifier', () => {
  const job = { operationId: newId(), caller: `user:${ADA}`, anchor: null };
  const advance = (sliceMs = 0) =>
    createVerifier({ keys: KEYRING.for('audit'), sliceMs }).advance(h.database.em.fork(), job);
  const forge = (position: Buffer) =>
    sql`update audit_verifications set sealed_position = ${position}`.execute(h.database.em.fork().getKysely());

  it('goes on where it stopped, and reads no further than to where the log ended when it began', async () => {
    expect(await advance()).toEqual({ upTo: 1, of: 4 });
    await createSealer({ keys: KEYRING.for('audit') }).append(h.database.em.fork(), [record()]);
    // Looked at already, so that a verdict which knows of it began again.
    await change(ids[0]?.[1]);
    expect(await advance()).toEqual({ upTo: 2, of: 4 });
    expect(await advance()).toEqual({ upTo: 3, of: 4 });
    expect(await advance()).toEqual({ verdict: { intact: true, rows: 12, checkpoints: 4 } });
  });

  it('finds what is broken in a later part, and a row between two parts', async () => {
    await advance();
    await change(ids[2]?.[1]);
    await advance();
    expect(await advance()).toMatchObject({
      verdict: { intact: false, rows: 6, checkpoints: 2, first_broken: { id: ids[2]?.[1], checkpoint: 3 } },
    });
  });

  it('begins again when its position is not the one it kept, or is that of another operation', async () => {
    await advance();
    await advance();
    const [mine] = await kept();
    await forge(Buffer.from(JSON.stringify({ head: 4, n: 4, hash: '00'.repeat(32), rows: 12, checkpoints: 4 })));
    expect(await advance()).toEqual({ upTo: 1, of: 4 });
    await sql`update audit_verifications set operation_id = ${newId()}`.execute(h.database.em.fork().getKysely());
    expect(await advance()).toEqual({ upTo: 1, of: 4 });
    await forge(mine?.sealed_position ?? Buffer.alloc(0));
  });

  it('knows in every part what is known outside the database', async () => {
    const cut = { ...job, anchor: { n: 9, hash: 'ab'.repeat(32) } };
    const verifier = createVerifier({ keys: KEYRING.for('audit'), sliceMs: 0 });
    for (let n = 0; n < 3; n += 1) await verifier.advance(h.database.em.fork(), cut);
    expect(await verifier.advance(h.database.em.fork(), cut)).toMatchObject({
      verdict: { intact: false, first_broken: { why: expect.stringContaining('its end was cut off') } },
    });
  });

  it('leaves nothing that lasts', async () => {
    await advance();
    await sql`update audit_verifications set updated_at = now() - interval '1000 days'`.execute(
      h.database.em.fork().getKysely(),
    );
    const purge = new Purge(h.database, h.config.retention, h.log);
    expect(await purge.round()).toMatchObject({ audit_verifications: 1 });
  });
});

it('a worker takes it up part by part, shows it as running, and the operation has the verdict', async () => {
  const ask = client({ largeLog: 5 });
  // Not one of those whose verifications of above are handled now as well.
  const token = `admin.${newId()}`;
  const call = <T>(path: string) => ask<T>(path, token);
  const { operation_id } = (await call<Operation>(VERIFY)).body.data;
  await change(ids[3]?.[2]);
  const look = async () => (await call<Operation>(`/api/v1/operations/${operation_id}`)).body.data;
  await h.start([worker], ['housekeeping']);
  await eventually(async () => (await look()).status === 'running', 'it is running', 60_000);
  expect((await call<Operation>(VERIFY)).body.data.operation_id).toBe(operation_id);
  await eventually(async () => (await look()).status === 'succeeded', 'it is finished', 120_000);
  expect((await look()).result).toMatchObject({
    intact: false,
    rows: 9,
    checkpoints: 3,
    first_broken: { id: ids[3]?.[2], checkpoint: 4 },
  });
  const { rows } = await sql<{ attempts: number }>`
    select attempts from operations where id = ${operation_id}`.execute(h.database.em.fork().getKysely());
  expect(rows).toEqual([{ attempts: 1 }]);
  expect((await kept()).map((row) => row.operation_id)).not.toContain(operation_id);
  expect((await call<Operation>(VERIFY)).body.data.operation_id).not.toBe(operation_id);
}, 200_000);
