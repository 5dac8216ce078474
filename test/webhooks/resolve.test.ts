import { createSocket } from 'node:dgram';
import { afterEach, describe, expect, it } from 'vitest';
import { createResolve } from '../../src/webhooks/resolve.ts';
import { createSender } from '../../src/webhooks/sender.ts';
import { startSubscriber } from './engine.ts';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

type Record = string | 'silent' | 'unknown' | 'none' | 'broken';

/** A name server (RFC 1035) on loopback: answers `name type` as `records` says, and NXDOMAIN what it does not say. */
async function startNameServer(records: { [question: string]: Record }): Promise<{ address: string; asked: string[] }> {
  const asked: string[] = [];
  const socket = createSocket('udp4');
  socket.on('message', (query, from) => {
    const labels: string[] = [];
    let at = 12;
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      labels.push(query.toString('latin1', at + 1, at + 1 + length));
      at += length + 1;
    }
    const end = at + 5;
    const type = query.readUInt16BE(at + 1) === 28 ? 'AAAA' : 'A';
    const question = `${labels.join('.').toLowerCase()} ${type}`;
    asked.push(question);
    const record = records[question] ?? 'unknown';
    if (record === 'silent') return;
    const code = { unknown: 3, broken: 2 }[record] ?? 0;
    const address = type === 'A' ? Buffer.from(record.split('.').map(Number)) : Buffer.alloc(16, 0x20);
    const answers = code === 0 && record !== 'none' ? 1 : 0;
    const head = Buffer.from([query[0] ?? 0, query[1] ?? 0, 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    const answer = Buffer.from([0xc0, 12, 0, type === 'A' ? 1 : 28, 0, 1, 0, 0, 0, 60, 0, address.length]);
    const parts = [head, query.subarray(12, end), ...(answers ? [answer, address] : [])];
    socket.send(Buffer.concat(parts), from.port, from.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  closing.push(() => socket.close());
  return { address: `127.0.0.1:${socket.address().port}`, asked };
}

const never = () => new Promise<never>(() => undefined);
const SIX = { address: '2020:2020:2020:2020:2020:2020:2020:2020', family: 6 };

describe('names', () => {
  it('are asked of the name servers, both families', async () => {
    const { address } = await startNameServer({ 'both.example A': '192.0.2.1', 'both.example AAAA': 'yes' });
    const resolve = createResolve({ servers: [address], system: never });
    expect(await resolve('both.example')).toEqual([{ address: '192.0.2.1', family: 4 }, SIX]);
  });

  it('have one family when the other has no address, or says nothing', async () => {
    const { address } = await startNameServer({
      'four.example A': '192.0.2.1',
      'four.example AAAA': 'none',
      'mute.example A': '192.0.2.2',
      'mute.example AAAA': 'silent',
    });
    const resolve = createResolve({ servers: [address], system: never });
    expect(await resolve('four.example')).toEqual([{ address: '192.0.2.1', family: 4 }]);
    const began = performance.now();
    expect(await resolve('mute.example')).toEqual([{ address: '192.0.2.2', family: 4 }]);
    expect(performance.now() - began).toBeLessThan(2000);
  });

  it('that hang hold up nobody else', async () => {
    const silent = Array.from({ length: 8 }, (_, n) => `hangs${n}.example`);
    const records = Object.fromEntries(
      silent.flatMap((name) => [`${name} A`, `${name} AAAA`].map((q) => [q, 'silent'])),
    );
    const { address, asked } = await startNameServer({ ...records, 'good.example A': '192.0.2.1' });
    const resolve = createResolve({ servers: [address], timeoutMs: 1500, system: never });
    const began = performance.now();
    const hanging = silent.map((name) => resolve(name).catch((error: Error) => error));
    expect(await resolve('good.example')).toEqual([{ address: '192.0.2.1', family: 4 }]);
    expect(await createResolve()('localhost')).not.toEqual([]);
    expect(performance.now() - began).toBeLessThan(1000);
    expect(asked).toEqual(expect.arrayContaining(silent.map((name) => `${name} A`)));
    for (const error of await Promise.all(hanging)) expect(error).toMatchObject({ code: 'EAI_AGAIN' });
    expect(performance.now() - began).toBeGreaterThan(1400);
    expect(performance.now() - began).toBeLessThan(2900);
  });

  it('go to the system, one at a time, when the name servers do not know them or there is no dot', async () => {
    const { address, asked } = await startNameServer({ 'none.example A': 'none', 'none.example AAAA': 'none' });
    const running: string[] = [];
    let most = 0;
    const resolve = createResolve({
      servers: [address],
      system: async (host) => {
        most = Math.max(most, running.push(host));
        await new Promise((done) => setImmediate(done));
        running.pop();
        return [{ address: '10.0.0.1', family: 4 }];
      },
    });
    const names = ['in-hosts.example', 'none.example', 'redis', 'rabbitmq'];
    for (const found of await Promise.all(names.map(resolve)))
      expect(found).toEqual([{ address: '10.0.0.1', family: 4 }]);
    expect(most).toBe(1);
    expect(asked.filter((question) => !question.includes('.example'))).toEqual([]);
  });

  it('that wait for the system leave at their time, and the system’s error is passed on', async () => {
    const hanging = createResolve({ timeoutMs: 200, system: never });
    const two = ['one', 'two'].map((name) => hanging(name));
    for (const one of two) await expect(one).rejects.toMatchObject({ code: 'EAI_AGAIN' });
    const gone = Object.assign(new Error('gone'), { code: 'ENOTFOUND' });
    await expect(createResolve({ system: () => Promise.reject(gone) })('name')).rejects.toBe(gone);
  });

  it('whose server fails are tried again another time, and not asked of the system', async () => {
    const { address } = await startNameServer({ 'bad.example A': 'broken', 'bad.example AAAA': 'broken' });
    let asked = 0;
    const system = async () => [{ address: '10.0.0.1', family: asked++ }];
    await expect(createResolve({ servers: [address], system })('bad.example')).rejects.toMatchObject({
      code: 'EAI_AGAIN',
    });
    expect(asked).toBe(0);
  });
});

it('is what the sender dials with', async () => {
  const target = await startSubscriber();
  closing.push(() => target.close());
  const { address } = await startNameServer({ 'hook.example A': '127.0.0.1', 'dead.example A': 'broken' });
  const { port } = new URL(target.url);
  const sender = createSender({
    allow: [],
    resolve: createResolve({ servers: [address] }),
  });
  closing.push(() => sender.close(0));
  const send = (host: string) =>
    sender.send({ url: `http://${host}:${port}/`, headers: {}, body: '{}', timeoutMs: 3000 });
  expect(await send('hook.example')).toMatchObject({ statusCode: null, error: 'forbidden_address' });
  expect(await send('dead.example')).toMatchObject({ statusCode: null, error: 'dns' });
  expect(target.received).toEqual([]);
});
