import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { Reconciler } from '../../src/queues/reconcile.ts';
import { Relay } from '../../src/queues/relay.ts';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { createEndpoint } from '../../src/webhooks/endpoints.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';
import { paid, type Subscriber, startSubscriber } from './engine.ts';

const WAYBILL = fileURLToPath(new URL('../../bin/waybill.js', import.meta.url));
const KEYS = ['a', 'b', 'c', 'd', 'e', 'f'];
const EACH = 20;

let h: Harness;
let directory: string;
let target: Subscriber;
const children: ChildProcess[] = [];

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'waybill-order-'));
  h = await createHarness();
  const { publisher, alarms, topology, wake, redis } = h.messaging;
  await h.start(
    [],
    ['housekeeping'],
    [
      new Relay({ database: h.database, publisher, alarms, topology, wake, log: h.log }),
      new Reconciler({ database: h.database, redis, alarms, namespace: h.config.namespace, log: h.log }),
    ],
  );
});
afterAll(async () => {
  for (const child of children) await kill(child);
  await target?.close();
  await h.close();
  rmSync(directory, { recursive: true, force: true });
});

async function worker(): Promise<ChildProcess> {
  const child = spawn(process.execPath, [WAYBILL, 'worker', 'fanout', 'webhooks'], {
    cwd: directory,
    env: {
      ...process.env,
      NODE_ENV: 'test',
      DATABASE_URL: h.config.databaseUrl,
      NAMESPACE: h.config.namespace,
      SECRETS_KEY: h.config.secretsKey.toString('base64'),
      WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
      WEBHOOK_RETRY_SCHEDULE: '200ms,200ms,200ms',
      PORT: '0',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (text: Buffer) => {
      said += text.toString();
    });
  await eventually(
    () => {
      if (child.exitCode !== null) throw new Error(`a worker ended: ${said}`);
      return said.includes('is listening');
    },
    'a worker is up',
    30_000,
  );
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

it('keeps the order of each key when the processes at work are killed again and again', async () => {
  const failures = new Map<string, number>();
  const arrived: { key: string; n: number }[] = [];
  target = await startSubscriber((request) => {
    const id = String(request.headers['webhook-id']);
    const { key, n } = JSON.parse(request.body).data;
    const failed = failures.get(id) ?? 0;
    if (failed < 2 && Math.random() < 0.2) {
      failures.set(id, failed + 1);
      return { status: 500 };
    }
    if (!arrived.some((one) => one.key === key && one.n === n)) arrived.push({ key, n });
    return { status: 200, delayMs: 5 };
  });
  await h.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
    createEndpoint(
      unit,
      { tenant: 'default', endpoint: { url: target.url, ordered: true, timeout_ms: 1000 } },
      { keyring: h.keyring, allow: parseAllowNetworks('127.0.0.0/8') },
    ),
  );
  let [first, second] = await Promise.all([worker(), worker()]);
  const publishing = (async () => {
    for (let n = 0; n < EACH; n += 1)
      await Promise.all(
        KEYS.map((key) => {
          const id = newId();
          return h.messaging.publishEvent(
            paid,
            { payment_id: 'p', amount: 1, currency: 'EUR', key, n },
            { requestId: 't', correlationId: id, actor: SYSTEM },
            { id, tenant: 'default', orderingKey: key },
            20_000,
          );
        }),
      );
  })();
  await eventually(() => arrived.length >= 10, 'some have arrived', 30_000);
  await kill(first);
  await publishing;
  first = await worker();
  const before = arrived.length;
  expect(before).toBeLessThan(KEYS.length * EACH);
  await eventually(() => arrived.length > before, 'it goes on', 60_000);
  await kill(second);
  second = await worker();
  await eventually(() => arrived.length === KEYS.length * EACH, 'all arrive', 150_000);
  const expected = Array.from({ length: EACH }, (_, n) => n);
  for (const key of KEYS) expect(arrived.filter((one) => one.key === key).map((one) => one.n)).toEqual(expected);
}, 240_000);
