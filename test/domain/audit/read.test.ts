import { createHash, createPublicKey, randomUUID, verify as verifySignature } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type AuditFilter,
  type AuditRecord,
  createSealer,
  eraseSubject,
  exportText,
  type InclusionProof,
  InvalidCursor,
  list,
  proof,
  resealSigningKeys,
  rewrapSubjectKeys,
  verify,
  verifyInclusion,
} from '../../../src/domain/audit/index.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { keys, master, openLog, otherKeys, record, records, type TestLog, tamper } from './log.ts';

let log: TestLog;
let written: AuditRecord[];
const minute = (i: number) => new Date(Date.UTC(2026, 10, 1, 0, Math.floor(i / 2))).toISOString();

beforeAll(async () => {
  log = await openLog();
  written = Array.from({ length: 40 }, (_, i) =>
    record({ occurred_at: minute(i), action: i % 4 === 0 ? 'user.registered' : 'session.created', tenant: 'acme' }),
  );
  const sealer = createSealer({ keys });
  await sealer.append(log.em(), written.slice(0, 23));
  await sealer.append(log.em(), written.slice(23));
});
afterAll(() => log.close());

const first = () => written[0] as AuditRecord;
const newestFirst = (all: AuditRecord[]) =>
  [...all]
    .sort((a, b) => (a.occurred_at === b.occurred_at ? (a.id < b.id ? 1 : -1) : a.occurred_at < b.occurred_at ? 1 : -1))
    .map(({ id }) => id);
const idsOf = async (filter: AuditFilter) => (await list(log.em(), filter, keys)).rows.map(({ id }) => id);

describe('list', () => {
  it('gives back what was recorded, personal fields in the clear', async () => {
    const given = first();
    const { rows } = await list(log.em(), { actor: given.actor.id ?? '' }, keys);
    expect(rows).toEqual([
      {
        id: given.id,
        occurred_at: given.occurred_at,
        recorded_at: expect.stringMatching(/^\d{4}-.*Z$/),
        action: 'user.registered',
        actor: given.actor,
        targets: given.targets,
        context: given.context,
        metadata: given.metadata,
        outcome: 'success',
        tenant: 'acme',
        checkpoint: 1,
        leaf_index: expect.any(Number),
      },
    ]);
  });

  it('walks all pages newest first, each row once, also where times are equal', async () => {
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const { rows, next_cursor } = await list(log.em(), { limit: 7, cursor }, keys);
      seen.push(...rows.map(({ id }) => id));
      cursor = next_cursor ?? undefined;
    } while (cursor);
    expect(seen).toEqual(newestFirst(written));
  });

  it('filters by target, action, operation and time', async () => {
    const given = first();
    expect(await idsOf({ target: given.targets[0]?.id })).toEqual([given.id]);
    expect(await idsOf({ operation_id: given.context.operation_id })).toEqual([given.id]);
    expect(await idsOf({ action: 'user.registered' })).toEqual(
      newestFirst(written.filter((r) => r.action === 'user.registered')),
    );
    const [after, before] = [minute(10), minute(14)];
    const between = written.filter((r) => r.occurred_at >= after && r.occurred_at < before);
    expect(between).toHaveLength(4);
    expect(await idsOf({ occurred_after: after, occurred_before: before })).toEqual(newestFirst(between));
    expect(await idsOf({ target: given.targets[0]?.id, action: 'session.created' })).toEqual([]);
  });

  it('has an index for each filter', async () => {
    const plans: [string, ReturnType<typeof sql>][] = [
      ['actor_id', sql`actor_id = 'x' order by occurred_at desc, id desc limit 5`],
      ['action', sql`action = 'x.y' order by occurred_at desc, id desc limit 5`],
      ['operation_id', sql`operation_id = 'x' order by occurred_at desc, id desc limit 5`],
      ['occurred_at', sql`occurred_at > now() order by occurred_at desc, id desc limit 5`],
      ['targets', sql`targets @> '[{"id":"x"}]'`],
      ['checkpoint', sql`checkpoint = 1`],
      ['id', sql`id = ${randomUUID()}::uuid`],
    ];
    for (const [column, where] of plans) {
      const plan = await log.em().transactional(async (tx) => {
        await sql`set local enable_seqscan = off`.execute(tx.getKysely());
        const { rows } = await sql<Record<string, string>>`explain select * from audit_events where ${where}`.execute(
          tx.getKysely(),
        );
        return rows.map((row) => row['QUERY PLAN']).join('\n');
      });
      expect(plan, column).toMatch(new RegExp(`Index Cond: \\(\\(?${column} `));
      expect(plan).not.toContain('Seq Scan on');
    }
  });

  it.each([
    'x',
    '',
    Buffer.from('2026-11-01 1').toString('base64url'),
    Buffer.from(`2026-99-99T00:00:00.000Z ${randomUUID()}`).toString('base64url'),
  ])('refuses the cursor %j', async (cursor) => {
    await expect(list(log.em(), { cursor }, keys)).rejects.toThrow(InvalidCursor);
  });

  it('says unreadable where the key is not at hand or a ciphertext was put elsewhere', async () => {
    const { rows } = await list(log.em(), { limit: 1 }, otherKeys);
    expect(rows[0]?.context).toMatchObject({ ip: '[unreadable]', user_agent: '[unreadable]', request_id: 'req-1' });
    const fresh = await openLog();
    try {
      await createSealer({ keys }).append(fresh.em(), [record()]);
      await tamper(fresh.em(), (tx) =>
        sql`update audit_events set personal = jsonb_set(personal, '{context.ip}', personal->'context.user_agent')`.execute(
          tx.getKysely(),
        ),
      );
      expect((await list(fresh.em(), {}, keys)).rows[0]?.context).toMatchObject({
        ip: '[unreadable]',
        user_agent: 'test/1.0',
      });
    } finally {
      await fresh.close();
    }
  });
});

describe('inclusion proof', () => {
  it('holds for every row, by hand too', async () => {
    for (const { id } of written) {
      const given = (await proof(log.em(), id)) as InclusionProof;
      expect(given.event_id).toBe(id);
      expect(await verifyInclusion(given)).toBe(true);
      // Nothing of ours: RFC 6962 and Ed25519 as a stranger would write them.
      const root = given.path.reduce(
        (hash, step) => {
          const pair =
            step.side === 'left' ? [Buffer.from(step.hash, 'hex'), hash] : [hash, Buffer.from(step.hash, 'hex')];
          return createHash('sha256')
            .update(Buffer.concat([Buffer.of(1), ...pair]))
            .digest();
        },
        Buffer.from(given.leaf, 'hex'),
      );
      expect(root.toString('hex')).toBe(given.checkpoint.root);
      const signature = Buffer.from(given.checkpoint.signature, 'base64');
      expect(
        verifySignature(
          null,
          Buffer.from(given.checkpoint.hash, 'hex'),
          createPublicKey(given.checkpoint.public_key),
          signature,
        ),
      ).toBe(true);
    }
  });

  it('is none for an unknown row', async () => {
    expect(await proof(log.em(), randomUUID())).toBeUndefined();
  });

  it('fails when any part of it is altered', async () => {
    const given = (await proof(log.em(), first().id)) as InclusionProof;
    const { checkpoint, path } = given;
    const flipped = '00'.repeat(32);
    const altered: InclusionProof[] = [
      { ...given, leaf: flipped },
      { ...given, leaf_index: given.leaf_index + 1 },
      { ...given, path: path.slice(1) },
      { ...given, path: path.map((step, i) => (i === 0 ? { ...step, hash: flipped } : step)) },
      { ...given, checkpoint: { ...checkpoint, root: flipped } },
      { ...given, checkpoint: { ...checkpoint, n: 2 } },
      { ...given, checkpoint: { ...checkpoint, created_at: '2020-01-01T00:00:00.000Z' } },
      { ...given, checkpoint: { ...checkpoint, hash: flipped } },
      { ...given, checkpoint: { ...checkpoint, signature: Buffer.alloc(64).toString('base64') } },
      { ...given, checkpoint: { ...checkpoint, public_key: '' } },
    ];
    for (const one of altered) expect(await verifyInclusion(one)).toBe(false);
  });

  it('of a row that was changed does not hold', async () => {
    const fresh = await openLog();
    try {
      const all = records(3);
      await createSealer({ keys }).append(fresh.em(), all);
      const id = all[1]?.id ?? '';
      await tamper(fresh.em(), (tx) =>
        sql`update audit_events set outcome = 'denied' where id = ${id}::uuid`.execute(tx.getKysely()),
      );
      expect(await verifyInclusion((await proof(fresh.em(), id)) as InclusionProof)).toBe(false);
      expect(await verifyInclusion((await proof(fresh.em(), all[0]?.id ?? '')) as InclusionProof)).toBe(true);
    } finally {
      await fresh.close();
    }
  });
});

describe('export', () => {
  const collect = async (format: 'ndjson' | 'csv', filter: AuditFilter = {}) => {
    const lines: string[] = [];
    for await (const line of exportText(log.em(), filter, keys, format)) lines.push(line);
    return lines;
  };

  it('as NDJSON holds every row as listed', async () => {
    const lines = await collect('ndjson');
    const { rows } = await list(log.em(), { limit: 1000 }, keys);
    expect(lines.map((line) => JSON.parse(line))).toEqual(rows);
    expect(lines.every((line) => line.indexOf('\n') === line.length - 1)).toBe(true);
  });

  it('as CSV has a header and defuses formulas', async () => {
    const fresh = record({
      occurred_at: '2026-12-01T00:00:00Z',
      action: 'export.tested',
      context: { user_agent: '=HYPERLINK("x")' },
    });
    await createSealer({ keys }).append(log.em(), [fresh]);
    const lines = await collect('csv', { action: 'export.tested' });
    expect(lines).toHaveLength(2);
    expect(lines[0]).toBe(
      'id,occurred_at,recorded_at,action,outcome,actor_type,actor_id,targets,ip,user_agent,request_id,operation_id,metadata,tenant,checkpoint,leaf_index\r\n',
    );
    expect(lines[1]).toContain(`${fresh.id},2026-12-01T00:00:00.000Z,`);
    expect(lines[1]).toContain(`,"'=HYPERLINK(""x"")",`);
  });
});

describe('erasing a person', () => {
  it('makes their fields unreadable, past and future, and leaves the log intact', async () => {
    const subject = randomUUID();
    const actor = { type: 'user' as const, id: subject };
    const before = record({ actor });
    const about = record({ actor: { type: 'system', id: null }, subject });
    const other = record();
    const sealer = createSealer({ keys });
    await sealer.append(log.em(), [before, about, other]);
    expect((await list(log.em(), { actor: subject }, keys)).rows[0]?.context.ip).toBe('203.0.113.7');

    expect(await eraseSubject(log.em(), subject)).toBe(true);
    expect(await eraseSubject(log.em(), subject)).toBe(false);
    const after = record({ actor });
    await sealer.append(log.em(), [after]);

    const { rows } = await list(log.em(), { limit: 1000 }, keys);
    for (const { id } of [before, about, after]) {
      const row = rows.find((one) => one.id === id);
      expect(row?.context).toMatchObject({ ip: '[erased]', user_agent: '[erased]', request_id: 'req-1' });
      expect(row?.metadata).toEqual({ email: '[erased]', attempts: 2, remembered: true });
    }
    expect(rows.find(({ id }) => id === other.id)?.metadata.email).toBe('ada@example.com');
    expect(await verify(log.em(), { keys })).toMatchObject({ intact: true });
    const { rows: key } = await sql<{ wrapped: Buffer | null }>`
      select wrapped from audit_subject_keys where subject = ${subject}::uuid`.execute(log.em().getKysely());
    expect(key).toEqual([{ wrapped: null }]);
  });

  it('holds for a person not heard of yet', async () => {
    const subject = randomUUID();
    expect(await eraseSubject(log.em(), subject)).toBe(false);
    await createSealer({ keys }).append(log.em(), [record({ actor: { type: 'user', id: subject } })]);
    expect((await list(log.em(), { actor: subject }, keys)).rows[0]?.context.ip).toBe('[erased]');
  });
});

describe('a new SECRETS_KEY', () => {
  it('reads and signs on once all keys are sealed anew, without the old one', async () => {
    const fresh = await openLog();
    try {
      const given = record();
      await createSealer({ keys }).append(fresh.em(), [given, ...records(3)]);
      const next = Buffer.alloc(32, 8);
      const both = new Keyring(next, master).for('audit');
      const alone = new Keyring(next).for('audit');
      await expect(createSealer({ keys: alone }).append(fresh.em(), [record({ actor: given.actor })])).rejects.toThrow(
        /cannot be opened/,
      );
      await expect(createSealer({ keys: alone }).append(fresh.em(), records(1))).rejects.toThrow(/unknown key/);

      expect(await rewrapSubjectKeys(fresh.em(), both, 3)).toBe(3);
      expect(await rewrapSubjectKeys(fresh.em(), both)).toBe(1);
      expect(await rewrapSubjectKeys(fresh.em(), both)).toBe(0);
      expect(await resealSigningKeys(fresh.em(), both)).toBe(1);
      expect(await resealSigningKeys(fresh.em(), both)).toBe(0);

      await createSealer({ keys: alone }).append(fresh.em(), [record({ actor: given.actor })]);
      const { rows } = await list(fresh.em(), { actor: given.actor.id ?? '' }, alone);
      expect(rows.map((row) => row.context.ip)).toEqual(['203.0.113.7', '203.0.113.7']);
      expect(await verify(fresh.em(), { keys: alone })).toEqual({ intact: true, rows: 5, checkpoints: 2 });
    } finally {
      await fresh.close();
    }
  });
});
