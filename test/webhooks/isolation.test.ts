import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { eventually } from '../harness.ts';
import { type Engine, type Subscriber, startEngine, startSubscriber } from './engine.ts';

const GOOD = 10;
const EVENTS = 20;
let engine: Engine;
let target: Subscriber;
/** Requests to the hanging endpoint that are not over; it never answers. */
let hanging: Subscriber;

beforeAll(async () => {
  engine = await startEngine();
  hanging = await startSubscriber(() => ({ status: 200, delayMs: 600_000 }));
  const seen = new Set<string>();
  target = await startSubscriber(({ path, headers }) => {
    if (path.startsWith('/failing')) return { status: 500 };
    const once = `${path} ${headers['webhook-id']}`;
    // The good ones fail once, so that their alarms are put to the test too.
    const first = path.endsWith('/0') && !seen.has(once);
    seen.add(once);
    return { status: first ? 500 : 204 };
  });
});
afterAll(async () => {
  await hanging.close();
  await target.close();
  await engine.close();
});

it('a hanging endpoint and failing ones keep nothing from the good ones', async () => {
  const only = { event_types: ['payment.*'] };
  const bad = await engine.subscribe(hanging.url, { ...only, timeout_ms: 30_000 });
  for (let n = 0; n < 5; n += 1) await engine.subscribe(`${target.url}/failing/${n}`, only);
  const good: string[] = [];
  for (let n = 0; n < GOOD; n += 1) good.push((await engine.subscribe(`${target.url}/good/${n}`, only)).id);
  for (let n = 0; n < EVENTS; n += 1) await engine.publish();
  await eventually(
    async () =>
      (await engine.deliveries()).filter((d) => good.includes(d.endpoint_id) && d.status === 'delivered').length ===
      GOOD * EVENTS,
    'the good ones have everything',
    60_000,
  );
  // Of the hanging one nothing is over: whatever waited behind it would be waiting still.
  expect(hanging.open.most).toBe(4);
  const over = await sql<{ n: number }>`
    select count(*)::int as n from webhook_attempts a join webhook_deliveries d on d.id = a.delivery_id
    where d.endpoint_id = ${bad.id}`.execute(engine.database.em.fork().getKysely());
  expect(over.rows).toEqual([{ n: 0 }]);
}, 90_000);
