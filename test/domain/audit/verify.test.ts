import { generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  checkpointColumns,
  checkpointHash,
  parseCheckpoint,
  type RawCheckpoint,
} from '../../../src/domain/audit/checkpoint.ts';
import { createSealer, type VerifyOptions, verify } from '../../../src/domain/audit/index.ts';
import { merkleRoot } from '../../../src/domain/audit/merkle.ts';
import { leafOf, parseRow, type RawRow, rowColumns } from '../../../src/domain/audit/row.ts';
import { wrap } from '../../../src/domain/audit/sealing.ts';
import { keys, openLog, otherKeys, record, records, type TestLog, tamper } from './log.ts';

let log: TestLog;
beforeAll(async () => {
  log = await openLog();
});
afterAll(() => log.close());

/** Ids by checkpoint and place: three checkpoints of 7, 6 and 5 rows. */
let ids: string[][];
beforeEach(async () => {
  await tamper(log.em(), (tx) => sql`truncate audit_events, audit_checkpoints, audit_keys`.execute(tx.getKysely()));
  const sealer = createSealer({ keys });
  ids = [];
  for (const size of [7, 6, 5]) {
    const { recorded } = await sealer.append(log.em(), records(size, { metadata: { amount: 5 } }));
    ids.push(recorded.map((row) => row.id));
  }
});

const at = (checkpoint: number, index: number) => ids[checkpoint - 1]?.[index] ?? 'none';
const check = (options: VerifyOptions = {}) => verify(log.em(), { keys, ...options });
const alter = (...statements: ReturnType<typeof sql>[]) =>
  tamper(log.em(), async (tx) => {
    for (const statement of statements) {
      const { numAffectedRows } = await statement.execute(tx.getKysely());
      if (numAffectedRows !== undefined && numAffectedRows === 0n) throw new Error('the tampering hit nothing');
    }
  });

async function raw(em: EntityManager, id: string): Promise<RawRow> {
  const { rows } = await sql<RawRow>`select ${rowColumns} from audit_events where id = ${id}::uuid`.execute(
    em.getKysely(),
  );
  return rows[0] as RawRow;
}

const insertCopy = (of: string, id: string, checkpoint: number, index: number) => sql`
  insert into audit_events select (jsonb_populate_record(e, jsonb_build_object('id', ${id}::text,
    'checkpoint', ${checkpoint}::int, 'leaf_index', ${index}::int))).* from audit_events e where id = ${of}::uuid`;

/** Gives a row the leaf that its content has: what a careful forger does. */
async function releaf(em: EntityManager, id: string) {
  const leaf = leafOf(parseRow(await raw(em, id)));
  await sql`update audit_events set leaf = ${leaf} where id = ${id}::uuid`.execute(em.getKysely());
}

describe('an untouched log', () => {
  it('is intact, empty too, and reports progress', async () => {
    const progress: unknown[] = [];
    expect(await check({ onProgress: (p) => progress.push(p) })).toEqual({ intact: true, rows: 18, checkpoints: 3 });
    expect(progress).toEqual([{ rows: 18, checkpoints: 3, of: 3 }]);
    await tamper(log.em(), (tx) => sql`truncate audit_events, audit_checkpoints`.execute(tx.getKysely()));
    expect(await check()).toEqual({ intact: true, rows: 0, checkpoints: 0 });
  });

  it('stays intact while others append', async () => {
    const sealer = createSealer({ keys });
    let going = true;
    const appending = (async () => {
      for (let i = 0; i < 60 && going; i += 1) await sealer.append(log.em(), records(5));
    })();
    const seen = [];
    for (let i = 0; i < 8; i += 1) seen.push((await check()).intact);
    going = false;
    await appending;
    expect(seen).toEqual(Array(8).fill(true));
  });

  it('is read across pages of rows and of checkpoints', async () => {
    const sealer = createSealer({ keys });
    for (let i = 0; i < 5; i += 1) await sealer.append(log.em(), records(500));
    for (let i = 0; i < 210; i += 1) await sealer.append(log.em(), [record()]);
    expect(await check()).toEqual({ intact: true, rows: 18 + 2500 + 210, checkpoints: 218 });
    expect(await check({ from: 9 })).toEqual({ intact: true, rows: 210, checkpoints: 218 });
  });
});

describe('a changed row is named', () => {
  it.each([
    ['outcome', sql`outcome = 'failure'`],
    ['occurred_at', sql`occurred_at = occurred_at + interval '1 millisecond'`],
    ['actor', sql`actor_id = ${randomUUID()}`],
    ['actor gone', sql`actor_id = null`],
    ['target', sql`targets = '[]'`],
    ['extra in a target', sql`targets = jsonb_set(targets, '{0,name}', '"x"')`],
    ['metadata', sql`metadata = '{"amount":6}'`],
    ['metadata beyond a double', sql`metadata = '{"amount":5.00000000000000000001}'`],
    ['metadata out of range', sql`metadata = '{"amount":1e400}'`],
    ['ciphertext', sql`personal = jsonb_set(personal, '{context.ip}', '"AAAA"')`],
    ['subject', sql`subject = null`],
    ['operation', sql`operation_id = null`],
    ['recorded hash', sql`leaf = sha256(leaf)`],
    ['recorded_at', sql`recorded_at = recorded_at + interval '1 millisecond'`],
    ['infinite time', sql`occurred_at = 'infinity'`],
  ])('%s', async (_, change) => {
    const id = at(2, 3);
    await alter(sql`update audit_events set ${change} where id = ${id}::uuid`);
    const result = await check();
    expect(result).toMatchObject({ intact: false, rows: 7, checkpoints: 1, first_broken: { id, checkpoint: 2 } });
    expect(result.first_broken?.why).toMatch(/changed/);
  });

  it('and of two changed rows the first', async () => {
    await alter(
      sql`update audit_events set outcome = 'denied' where id = any(${[at(3, 0), at(1, 5), at(1, 2)]}::uuid[])`,
    );
    expect((await check()).first_broken).toMatchObject({ id: at(1, 2), checkpoint: 1 });
  });

  it('and, when its recorded hash was renewed too, its checkpoint', async () => {
    const id = at(2, 3);
    await alter(sql`update audit_events set outcome = 'failure' where id = ${id}::uuid`);
    await tamper(log.em(), (tx) => releaf(tx, id));
    expect((await check()).first_broken).toMatchObject({
      id: null,
      checkpoint: 2,
      why: expect.stringMatching(/together with its recorded hash/),
    });
  });
});

describe('a removed row', () => {
  it.each([0, 3, 5])('at place %i is named by its place', async (index) => {
    await alter(sql`delete from audit_events where id = ${at(2, index)}::uuid`);
    const result = await check();
    expect(result.first_broken).toMatchObject({ id: null, checkpoint: 2 });
    expect(result.first_broken?.why).toMatch(
      index === 5 ? /removed: 5 are left of 6, the last stood at 4/ : `row ${index} of checkpoint 2 was removed`,
    );
  });

  it('shows with the gap closed, and as the very last row of the log', async () => {
    await alter(
      sql`delete from audit_events where id = ${at(1, 2)}::uuid`,
      sql`update audit_events set leaf_index = leaf_index - 1 where checkpoint = 1 and leaf_index > 2`,
    );
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 1,
      why: expect.stringMatching(/removed: 6 are left of 7/),
    });
    await alter(
      sql`delete from audit_events where checkpoint = 1`,
      sql`delete from audit_events where id = ${at(3, 4)}::uuid`,
    );
    expect((await check()).first_broken).toMatchObject({ checkpoint: 1, why: expect.stringMatching(/removed/) });
    expect((await check({ from: 2 })).first_broken).toMatchObject({
      checkpoint: 3,
      why: expect.stringMatching(/4 are left of 5/),
    });
  });
});

describe('an inserted row is named', () => {
  const id = randomUUID();
  it.each([
    ['behind the last of a checkpoint', 2, 6],
    ['on the place of another', 2, 2],
    ['far behind', 2, 99],
    ['before the first place', 2, -1],
  ])('%s', async (_, checkpoint, index) => {
    await alter(
      insertCopy(at(3, 0), id, checkpoint, index),
      sql`update audit_events set recorded_at = recorded_at + interval '1 ms' where id = ${id}::uuid`,
    );
    await tamper(log.em(), (tx) => releaf(tx, id));
    expect((await check()).first_broken).toMatchObject({ id, checkpoint, why: expect.stringMatching(/inserted/) });
  });

  it('between others that made room, with the hash of its content', async () => {
    await alter(
      sql`update audit_events set leaf_index = leaf_index + 100 where checkpoint = 2 and leaf_index >= 2`,
      insertCopy(at(2, 0), id, 2, 2),
      sql`update audit_events set leaf_index = leaf_index - 99 where checkpoint = 2 and leaf_index >= 100`,
    );
    await tamper(log.em(), (tx) => releaf(tx, id));
    expect((await check()).first_broken).toMatchObject({ id, checkpoint: 2, why: expect.stringMatching(/inserted/) });
  });

  it.each([0, -4, 4, 77])('under checkpoint %i, which does not exist', async (checkpoint) => {
    await alter(insertCopy(at(3, 0), id, checkpoint, 0));
    expect((await check()).first_broken).toMatchObject({ id, checkpoint, why: expect.stringMatching(/inserted/) });
  });

  it('under a checkpoint 0 of an otherwise empty log', async () => {
    await alter(
      insertCopy(at(3, 0), id, 0, 0),
      sql`delete from audit_events where checkpoint > 0`,
      sql`delete from audit_checkpoints`,
    );
    expect((await check()).first_broken).toMatchObject({ id, checkpoint: 0 });
  });
});

describe('reordered rows', () => {
  it('are named from the first that is out of place', async () => {
    await alter(
      sql`update audit_events set leaf_index = case leaf_index when 1 then 104 else 101 end where checkpoint = 2 and leaf_index in (1, 4)`,
      sql`update audit_events set leaf_index = leaf_index - 100 where leaf_index > 100`,
    );
    expect((await check()).first_broken).toMatchObject({
      id: at(2, 4),
      checkpoint: 2,
      why: expect.stringMatching(/reordered/),
    });
  });

  it('show when moved between checkpoints', async () => {
    await alter(
      sql`update audit_events set (checkpoint, leaf_index, recorded_at) = (select 3, 50, created_at from audit_checkpoints where n = 3) where id = ${at(2, 5)}::uuid`,
    );
    expect((await check()).first_broken).toMatchObject({ checkpoint: 2, why: expect.stringMatching(/removed/) });
  });
});

describe('a checkpoint', () => {
  async function read(n: number) {
    const { rows } =
      await sql<RawCheckpoint>`select ${checkpointColumns} from audit_checkpoints where n = ${n}`.execute(
        log.em().getKysely(),
      );
    return parseCheckpoint(rows[0] as RawCheckpoint);
  }
  /** Rewrites checkpoint `n` so that it is right in itself, signed with this key. */
  async function rewrite(n: number, change: object, signed?: { kid: string; key: Parameters<typeof sign>[2] }) {
    const next = { ...(await read(n)), ...change, ...(signed ? { kid: signed.kid } : {}) };
    const hash = Buffer.from(checkpointHash(next), 'hex');
    const signature = signed ? sign(null, hash, signed.key) : Buffer.from(next.signature, 'base64');
    await alter(sql`update audit_checkpoints set size = ${next.size}, root = ${Buffer.from(next.root, 'hex')}, kid = ${next.kid},
      previous_hash = ${Buffer.from(next.previous_hash, 'hex')}, hash = ${hash}, signature = ${signature} where n = ${n}`);
    return hash.toString('hex');
  }

  it.each([1, 2])('%i removed', async (n) => {
    await alter(sql`delete from audit_checkpoints where n = ${n}`);
    expect((await check()).first_broken).toEqual({ id: at(n, 0), checkpoint: n, why: `checkpoint ${n} was removed` });
    await alter(sql`delete from audit_events where checkpoint = ${n}`);
    expect((await check()).first_broken).toEqual({ id: null, checkpoint: n, why: `checkpoint ${n} was removed` });
  });

  it('removed at the end shows by its rows, and without them only against an anchor', async () => {
    const { hash } = await read(3);
    const { hash: second } = await read(2);
    expect(await check({ anchor: { n: 3, hash } })).toMatchObject({ intact: true });
    await alter(sql`delete from audit_checkpoints where n = 3`);
    expect((await check()).first_broken).toMatchObject({
      id: at(3, 0),
      checkpoint: 3,
      why: expect.stringMatching(/not there/),
    });
    await alter(sql`delete from audit_events where checkpoint = 3`);
    expect(await check()).toEqual({ intact: true, rows: 13, checkpoints: 2 });
    expect(await check({ anchor: { n: 2, hash: second } })).toMatchObject({ intact: true });
    expect((await check({ anchor: { n: 3, hash } })).first_broken).toMatchObject({
      checkpoint: 3,
      why: expect.stringMatching(/cut off/),
    });
    await createSealer({ keys }).append(log.em(), records(5));
    expect(await check()).toMatchObject({ intact: true });
    expect((await check({ anchor: { n: 3, hash } })).first_broken).toMatchObject({
      checkpoint: 3,
      why: expect.stringMatching(/anchor/),
    });
  });

  it.each([
    ['size', sql`size = 5`],
    ['root', sql`root = sha256(root)`],
    ['time', sql`created_at = created_at + interval '1 millisecond'`],
    ['hash', sql`hash = sha256(hash)`],
    ['previous hash', sql`previous_hash = sha256(previous_hash)`],
  ])('with another %s', async (_, change) => {
    await alter(sql`update audit_checkpoints set ${change} where n = 2`);
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 2,
      why: expect.stringMatching(/changed: its hash/),
    });
  });

  it('rewritten in itself: by its signature, or by the chain', async () => {
    await rewrite(2, { size: 5 });
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 2,
      why: expect.stringMatching(/signature does not hold/),
    });
    await rewrite(2, { previous_hash: '11'.repeat(32) });
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 2,
      why: expect.stringMatching(/does not follow checkpoint 1/),
    });
  });

  it('signed by nobody known, or with a key brought along', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519');
    const forger = { kid: 'forger', key: privateKey };
    // A row changed, leaf, root, hash and signature renewed, up to the end of the log.
    await alter(sql`update audit_events set outcome = 'failure' where id = ${at(2, 1)}::uuid`);
    await tamper(log.em(), (tx) => releaf(tx, at(2, 1)));
    const leaves = await Promise.all((ids[1] ?? []).map(async (id) => (await raw(log.em(), id)).leaf));
    const hash = await rewrite(2, { root: merkleRoot(leaves).toString('hex') }, forger);
    await rewrite(3, { previous_hash: hash }, forger);
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 2,
      why: expect.stringMatching(/unknown key forger/),
    });

    const public_key = publicKey.export({ format: 'pem', type: 'spki' }).toString();
    const sealed = wrap(
      otherKeys,
      privateKey.export({ format: 'der', type: 'pkcs8' }),
      `audit signing key forger ${public_key}`,
    );
    await sql`insert into audit_keys values ('forger', ${public_key}, ${sealed}, now())`.execute(log.em().getKysely());
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 2,
      why: expect.stringMatching(/not made under the SECRETS_KEY/),
    });
    expect(await verify(log.em())).toMatchObject({ intact: true });
  });

  it('whose signing key was exchanged', async () => {
    const { publicKey } = generateKeyPairSync('ed25519');
    await sql`update audit_keys set public_key = ${publicKey.export({ format: 'pem', type: 'spki' }).toString()}`.execute(
      log.em().getKysely(),
    );
    expect((await verify(log.em())).first_broken).toMatchObject({
      checkpoint: 1,
      why: expect.stringMatching(/signature does not hold/),
    });
    expect((await check()).first_broken).toMatchObject({
      checkpoint: 1,
      why: expect.stringMatching(/not made under the SECRETS_KEY/),
    });
    await sql`update audit_keys set public_key = 'no key'`.execute(log.em().getKysely());
    expect((await verify(log.em())).first_broken?.why).toMatch(/no Ed25519 key/);
  });
});
