import { afterAll, beforeAll, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { shares } from '../../src/webhooks/directory.ts';
import { eventually } from '../harness.ts';
import { type Engine, paid, type Subscriber, startEngine, startSubscriber } from './engine.ts';

let engine: Engine;
let subscriber: Subscriber;

beforeAll(async () => {
  subscriber = await startSubscriber();
  engine = await startEngine();
});
afterAll(async () => {
  await engine.close();
  await subscriber.close();
});

it.each([
  [[], [], true],
  [[], ['eu'], true],
  [['eu'], [], false],
  [['eu'], ['us'], false],
  [['eu', 'b2b'], ['us', 'b2b'], true],
  [['EU'], ['eu'], false],
])('an endpoint that asks for %j gets an event on %j: %s', (wanted, channels, expected) => {
  expect(shares(wanted, channels)).toBe(expected);
});

it('an event reaches the endpoints that share a channel with it and those that name none', async () => {
  const wants: Record<string, string[]> = { all: [], eu: ['eu'], both: ['us', 'eu'], us: ['us'] };
  for (const [name, channels] of Object.entries(wants))
    await engine.subscribe(`${subscriber.url}/${name}`, { channels, status: name === 'both' ? 'disabled' : 'enabled' });
  const publish = async (channels?: string[]) => {
    const id = newId();
    const context = { requestId: 'test', correlationId: id, actor: SYSTEM };
    const options = { id, tenant: 'default', ...(channels ? { channels } : {}) };
    await engine.messaging.publishEvent(paid, { payment_id: id, amount: 1, currency: 'EUR' }, context, options);
    return id;
  };
  const [eu, none, two] = [await publish(['eu']), await publish(), await publish(['x', 'us'])];
  const paths = (id: string) =>
    subscriber.received
      .filter(({ headers }) => headers['webhook-id'] === id)
      .map(({ path }) => path)
      .toSorted();
  await eventually(() => [eu, none, two].reduce((n, id) => n + paths(id).length, 0) === 5, 'what is to be delivered');
  expect([paths(eu), paths(none), paths(two)]).toEqual([['/all', '/eu'], ['/all'], ['/all', '/us']]);
  // The disabled one is held what it asked for, and nothing else.
  const held = (await engine.deliveries()).filter(({ status }) => status === 'held').map(({ event_id }) => event_id);
  expect(held.toSorted()).toEqual([eu, two].toSorted());
});
