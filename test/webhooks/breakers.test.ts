import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { createLogger } from '../../src/services/logger.ts';
import { advanceOldest, Breakers, bringBack, type Turned } from '../../src/webhooks/breakers.ts';
import { eventually } from '../harness.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
let endpointId: string;
const log = createLogger({ level: 'fatal' });
/** As two processes have them. */
let one: Breakers;
let other: Breakers;

beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());
beforeEach(() => {
  endpointId = newId();
  one = new Breakers(bench.database, log);
  other = new Breakers(bench.database, log);
});

/** Records results as a group commit does. */
async function record(breakers: Breakers, failed: number, delivered = 0, probe = false): Promise<Turned> {
  const verdict = (isFailed: boolean) => ({ endpointId, failed: isFailed, probe });
  const verdicts = [...Array(failed).fill(verdict(true)), ...Array(delivered).fill(verdict(false))];
  const turned = await bench.database.em.fork().transactional((em) => breakers.count(em, verdicts));
  breakers.taken(turned);
  return turned;
}
const row = async () =>
  (
    await bench.query(sql<Record<string, unknown>>`select * from webhook_breakers where endpoint_id = ${endpointId}`)
  )[0];
const due = () =>
  bench.query(sql`update webhook_breakers set open_until = now() - interval '1 ms' where endpoint_id = ${endpointId}`);

describe('counting', () => {
  it('writes nothing while an endpoint only succeeds', async () => {
    await record(one, 0, 500);
    expect(await row()).toBeUndefined();
  });

  it('opens at 20 attempts of which 90 % failed, over all processes', async () => {
    expect((await record(one, 10)).opened).toEqual([]);
    expect((await record(other, 9)).opened).toEqual([]);
    expect(one.hold(endpointId)).toBeUndefined();
    const before = Date.now();
    const { opened } = await record(other, 1);
    expect(opened).toHaveLength(1);
    expect((opened[0]?.until ?? 0) - before).toBeGreaterThan(4500);
    expect((opened[0]?.until ?? 0) - before).toBeLessThan(6500);
    expect(other.hold(endpointId)?.reason).toBe(`breaker open until ${new Date(opened[0]?.until ?? 0).toISOString()}`);
    await one.refresh();
    expect(one.hold(endpointId)?.reason).toMatch(/^breaker open until/);
  });

  it('stays closed while more than a tenth succeeds', async () => {
    expect((await record(one, 17, 3)).opened).toEqual([]);
    expect((await record(one, 10)).opened).toHaveLength(1);
  });

  it('forgets what is older than a minute', async () => {
    await record(one, 19);
    await bench.query(
      sql`update webhook_breakers set window_started_at = now() - interval '61 s' where endpoint_id = ${endpointId}`,
    );
    expect((await record(one, 19)).opened).toEqual([]);
    expect(await row()).toMatchObject({ attempts: 19, failures: 19, state: 'closed' });
  });

  it('leaves no deadlock behind when processes record the same endpoints at once', async () => {
    const ids = Array.from({ length: 20 }, () => newId());
    const commit = (breakers: Breakers, order: string[]) =>
      bench.database.em.fork().transactional((em) =>
        breakers.count(
          em,
          order.map((id) => ({ endpointId: id, failed: true, probe: false })),
        ),
      );
    await Promise.all(
      Array.from({ length: 20 }, (_, n) => commit(n % 2 ? one : other, n % 2 ? ids : ids.toReversed())),
    );
    const [{ n } = { n: 0 }] = await bench.query(
      sql<{
        n: number;
      }>`select count(*)::int as n from webhook_breakers where endpoint_id = any(${ids}::uuid[]) and state = 'open' and failures = 20`,
    );
    expect(n).toBe(20);
  });

  it('nor when one of them counts what another one probes', async () => {
    const [first, middle, last] = Array.from({ length: 3 }, () => newId()).sort() as [string, string, string];
    const commit = (breakers: Breakers, verdicts: { endpointId: string; failed: boolean; probe: boolean }[]) =>
      bench.database.em.fork().transactional((em) => breakers.count(em, verdicts));
    const failed = [first, middle, last].map((id) => ({ endpointId: id, failed: true, probe: false }));
    await commit(other, Array(20).fill(failed).flat());
    const waiting = (n: number) =>
      eventually(async () => {
        const [row] = await bench.query(
          sql<{
            n: number;
          }>`select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
        return row?.n === n;
      }, `${n} wait for a lock`);
    let commits: Promise<Turned>[] = [];
    await bench.database.em.fork().transactional(async (em) => {
      await sql`select 1 from webhook_breakers where endpoint_id = ${middle} for update`.execute(em.getKysely());
      commits = [commit(other, failed)];
      await waiting(1);
      // It knows of no failure of the first one: of that it reports a probe and no count.
      const probed = { endpointId: first, failed: false, probe: true };
      commits.push(commit(one, [{ endpointId: last, failed: true, probe: false }, probed]));
      await waiting(2);
    });
    expect((await Promise.all(commits)).map(({ closed }) => closed)).toEqual([[], [first]]);
  });

  it('makes no row for an endpoint that a probe finds well', async () => {
    expect(await record(one, 0, 1, true)).toEqual({ opened: [], closed: [] });
    expect(await row()).toBeUndefined();
  });
});

describe('an open breaker', () => {
  beforeEach(async () => {
    await record(one, 20);
    // A process that is started later.
    other = new Breakers(bench.database, log);
    await other.refresh();
  });

  it('puts everything off, spread out, until its time', async () => {
    const { open_until } = (await row()) as { open_until: string };
    const times = Array.from({ length: 10 }, () => other.hold(endpointId)?.until ?? 0);
    expect(times[0]).toBeGreaterThanOrEqual(Date.parse(open_until));
    expect(new Set(times).size).toBe(10);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(await other.admit(endpointId, 1000)).toMatchObject({ reason: expect.stringMatching(/^breaker open until/) });
  });

  it('lets exactly one probe through at its time', async () => {
    await due();
    // Both believe that the time has come.
    for (const breakers of [one, other])
      breakers.taken({ opened: [{ endpointId, until: Date.now() - 1 }], closed: [] });
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) => (n % 2 ? one : other).admit(endpointId, 1000)),
    );
    expect(answers.filter((answer) => answer === 'probe')).toHaveLength(1);
    expect(answers.filter((answer) => typeof answer === 'object')).toHaveLength(19);
  });

  it('takes the probe of a process that died for lost after a while', async () => {
    await due();
    one.taken({ opened: [{ endpointId, until: Date.now() - 1 }], closed: [] });
    expect(await one.admit(endpointId, 1000)).toBe('probe');
    await bench.query(
      sql`update webhook_breakers set probe_until = now() - interval '1 ms' where endpoint_id = ${endpointId}`,
    );
    other.taken({ opened: [{ endpointId, until: Date.now() - 1 }], closed: [] });
    expect(await other.admit(endpointId, 1000)).toBe('probe');
  });

  it('opens again for twice as long after each failed probe, up to a minute', async () => {
    const backoffs: unknown[] = [];
    for (let n = 0; n < 5; n += 1) {
      await due();
      one.taken({ opened: [{ endpointId, until: Date.now() - 1 }], closed: [] });
      expect(await one.admit(endpointId, 1000)).toBe('probe');
      expect((await record(one, 1, 0, true)).opened).toHaveLength(1);
      backoffs.push((await row())?.backoff_ms);
    }
    expect(backoffs).toEqual([10_000, 20_000, 40_000, 60_000, 60_000]);
  });

  it('closes on success, and starts counting anew', async () => {
    expect((await record(one, 0, 1, true)).closed).toEqual([endpointId]);
    expect(await row()).toMatchObject({ state: 'closed', attempts: 0, open_until: null, probe_until: null });
    expect(one.hold(endpointId)).toBeUndefined();
    expect(await one.admit(endpointId, 1000)).toBe('closed');
    expect((await record(one, 19)).opened).toEqual([]);
  });

  it('brings back what waits for it, the oldest first and apart from each other', async () => {
    const ids: string[] = [];
    for (let n = 0; n < 5; n += 1) {
      const id = await bench.deliver(endpointId, {
        reason: 'breaker open until 2026-11-20T12:00:00.000Z',
        created_at: new Date(Date.now() - n * 1000).toISOString(),
      });
      ids.unshift(id);
    }
    const left = await bench.deliver(endpointId, { reason: 'status 500' });
    const alarms: { id: string; at: number; generation: number }[] = [];
    await bringBack(bench.em(), endpointId, 40, async (rows) => {
      alarms.push(...rows);
    });
    const sorted = alarms.toSorted((a, b) => a.at - b.at);
    expect(sorted.map((alarm) => alarm.id)).toEqual(ids);
    for (const [i, alarm] of sorted.entries())
      if (i > 0) expect(alarm.at - (sorted[i - 1]?.at ?? 0)).toBeGreaterThanOrEqual(39);
    expect(alarms.every(({ generation }) => generation === 1)).toBe(true);
    expect(await bench.delivery(left)).toMatchObject({ reason: 'status 500', generation: 0 });
  });

  it('has the oldest of those that wait long come back when a probe may be sent, and no other', async () => {
    const wait = (ageMs: number, waitMs: number) =>
      bench.deliver(endpointId, {
        reason: 'breaker open until 2026-11-20T12:00:00.000Z',
        created_at: new Date(Date.now() - ageMs).toISOString(),
        next_attempt_at: new Date(Date.now() + waitMs).toISOString(),
      });
    const [oldest, younger] = [await wait(9000, 240_000), await wait(1000, 200_000)];
    const at = Date.now() + 5000;
    expect(await advanceOldest(bench.em(), endpointId, at)).toEqual({ id: oldest, attempts: 0, generation: 1, at });
    expect(Date.parse(String((await bench.delivery(oldest))?.next_attempt_at))).toBe(at);
    expect(await bench.delivery(younger)).toMatchObject({ generation: 0 });
    expect(await advanceOldest(bench.em(), newId(), at)).toBeUndefined();
  });
});
