import { beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import type { Chunk } from '../../src/webhooks/chunk.ts';
import { fanOut } from '../../src/webhooks/fanout.ts';
import { eventually } from '../harness.ts';
import { cut, type Engine, engineOfFile, joinEngine } from './engine.ts';

const { started, subscriber } = engineOfFile();
let engine: Engine;
beforeAll(() => {
  engine = started();
});

const delivered = (eventId: string) =>
  eventually(
    async () => (await engine.deliveries()).some((d) => d.event_id === eventId && d.status === 'delivered'),
    `${eventId} is delivered`,
  );
const chunkOf = (eventIds: readonly string[], to: readonly string[], more: Partial<Chunk> = {}): Chunk => ({
  check: false,
  at: Date.now(),
  events: eventIds.map((id, n) => ({
    id,
    tenant: 'default',
    type: 'payment.succeeded',
    payload: '{}',
    correlation: null,
    to: [[newId(), to[n] ?? '']],
  })),
  ...more,
});
const handOut = (chunk: Chunk) =>
  engine.messaging.publisher.publish({
    exchange: engine.messaging.topology.deliveries,
    routingKey: '',
    body: Buffer.from(JSON.stringify(chunk)),
    messageId: newId(),
    type: 'webhook.chunk',
  });

describe('a webhook goes out once', () => {
  it('when the connection breaks while the subscriber still holds its answer', async () => {
    const target = await subscriber(() => ({ status: 200, delayMs: 2500 }));
    await engine.subscribe(target.url);
    const id = await engine.publish();
    await eventually(() => target.received.length === 1, 'it is on its way');
    const before = engine.messaging.consumerBroker.model;
    cut(engine.messaging);
    await eventually(() => engine.messaging.consumerBroker.model !== before, 'the connection is another one');
    await delivered(id);
    // What the broker handed out again comes before this.
    await delivered(await engine.publish());
    expect(target.received.filter((r) => r.headers['webhook-id'] === id)).toHaveLength(1);
    const [row] = (await engine.deliveries()).filter((d) => d.event_id === id);
    expect(row).toMatchObject({ status: 'delivered', attempts: 1, numbers: [1] });
  }, 20_000);

  it('when its chunk goes to another process meanwhile', async () => {
    const other = await joinEngine(engine);
    try {
      const target = await subscriber(() => ({ status: 200, delayMs: 6000 }));
      for (let n = 0; n < 4; n += 1) await engine.subscribe(`${target.url}/${n}`);
      const ids = await Promise.all(Array.from({ length: 3 }, () => engine.publish()));
      const mine = async () => (await engine.deliveries()).filter((d) => ids.includes(d.event_id));
      const kept = async () => (await mine()).filter((d) => d.reason === 'waits for an answer').length;
      await eventually(async () => target.open.now === 12 && (await kept()) === 12, 'all are on their way');
      cut(engine.messaging);
      other.cut();
      await eventually(async () => (await mine()).every((d) => d.status === 'delivered'), 'all are delivered', 15_000);
      const marker = await engine.publish();
      await eventually(
        () => target.received.filter((r) => r.headers['webhook-id'] === marker).length === 4,
        'what the broker handed out again has passed',
      );
      expect(target.received.filter((r) => ids.includes(String(r.headers['webhook-id'])))).toHaveLength(12);
      expect((await mine()).map((d) => d.numbers)).toEqual(Array(12).fill([1]));
    } finally {
      await other.stop();
    }
  }, 60_000);

  // Longer than the longest wait before a chunk's first repetition.
  it('when another delivery of its chunk cannot be recorded', async () => {
    const quick = await subscriber();
    const slow = await subscriber((_, nth) => ({ status: 200, ...(nth === 1 ? { delayMs: 7000 } : {}) }));
    const [one, two] = [await engine.subscribe(quick.url), await engine.subscribe(slow.url)];
    const [bad, good] = [newId(), newId()];
    const chunk = chunkOf([bad, good], [one.id, two.id]);
    // A character that PostgreSQL's text does not take.
    for (const event of chunk.events) if (event.id === bad) event.correlation = 'a\u0000b';
    await handOut(chunk);
    await eventually(() => slow.received.length === 1, 'the slow one is on its way');
    await eventually(() => quick.received.length > 1, 'the chunk is tried again', 15_000);
    await delivered(good);
    // What the second try would have sent comes before this.
    const marker = newId();
    await handOut(chunkOf([marker], [two.id]));
    await delivered(marker);
    expect(slow.received.map((r) => r.headers['webhook-id'])).toEqual([good, marker]);
  }, 30_000);

  it('when its chunk has waited so long that it may have been recovered meanwhile', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url);
    const id = await engine.publish();
    await delivered(id);
    await handOut(chunkOf([id], [endpoint.id], { at: Date.now() - 10 * 60_000 }));
    const marker = newId();
    await handOut(chunkOf([marker], [endpoint.id]));
    await delivered(marker);
    expect(target.received.map((r) => r.headers['webhook-id'])).toEqual([id, marker]);
  });

  it('and fan-out says when it cut a chunk', async () => {
    const { database, keyring } = engine;
    const { EndpointDirectory } = await import('../../src/webhooks/directory.ts');
    await engine.subscribe('http://127.0.0.1:9/', { event_types: ['cut.*'] });
    const chunks: Chunk[] = [];
    const began = Date.now();
    await fanOut(
      [
        {
          envelope: {
            specversion: '1.0',
            id: newId(),
            source: 'test',
            type: 'cut.one',
            time: new Date().toISOString(),
            tenant: 'default',
            data: {},
          },
          redelivered: false,
        },
      ],
      {
        database,
        directory: new EndpointDirectory(database, keyring),
        publish: async (chunk) => void chunks.push(chunk),
        setAlarms: async () => undefined,
      },
    );
    expect(chunks).toHaveLength(1);
    expect(chunks[0]?.at).toBeGreaterThanOrEqual(began);
    expect(chunks[0]?.at).toBeLessThanOrEqual(Date.now());
  });
});
