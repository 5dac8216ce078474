import { connect, createServer, isIPv4, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { describe, expect, it } from 'vitest';
import {
  checkEndpointUrl,
  ForbiddenAddressError,
  guardedLookup,
  InvalidNetworkError,
  isForbiddenAddress,
  parseAllowNetworks,
  type ResolvedAddress,
} from '../../src/webhooks/addresses.ts';
import { createResolve } from '../../src/webhooks/resolve.ts';

const LOOPBACK = parseAllowNetworks('127.0.0.0/8,::1');

describe('isForbiddenAddress', () => {
  it.each([
    ['0.0.0.0'],
    ['0.1.2.3'],
    ['10.0.0.1'],
    ['10.255.255.255'],
    ['100.64.0.1'],
    ['100.100.100.200'],
    ['127.0.0.1'],
    ['127.255.255.254'],
    ['168.63.129.16'],
    ['169.254.169.254'],
    ['172.16.0.1'],
    ['172.31.255.255'],
    ['192.0.0.192'],
    ['192.0.2.1'],
    ['192.88.99.1'],
    ['192.168.1.1'],
    ['198.18.0.1'],
    ['198.19.255.255'],
    ['198.51.100.1'],
    ['203.0.113.1'],
    ['224.0.0.1'],
    ['239.255.255.255'],
    ['240.0.0.1'],
    ['255.255.255.255'],
    ['::'],
    ['::1'],
    ['100::1'],
    ['2001::1'],
    ['2001:2::1'],
    ['2001:10::1'],
    ['2001:20::1'],
    ['2001:db8::1'],
    ['3fff::1'],
    ['200::1'],
    ['4000::1'],
    ['8000::1'],
    ['5f00::1'],
    ['fc00::1'],
    ['fd00:ec2::254'],
    ['fe80::1'],
    ['fe80::1%eth0'],
    ['fec0::1'],
    ['ff02::1'],
    ['::ffff:127.0.0.1'],
    ['::ffff:a9fe:a9fe'],
    ['::ffff:0:10.0.0.1'],
    ['::127.0.0.1'],
    ['::a00:1'],
    ['64:ff9b::127.0.0.1'],
    ['64:ff9b::a9fe:a9fe'],
    // 127.0.0.1 where a local NAT64 prefix of /96, /64, /56 and /48 puts it (RFC 6052 2.2), some with a suffix.
    ['64:ff9b:1::127.0.0.1'],
    ['64:ff9b:1:0:7f:0:100:0'],
    ['64:ff9b:1:7f:0:1:808:808'],
    ['64:ff9b:1:7f00:0:100::'],
    ['64:ff9b:1:7f00:0:101:808:808'],
    ['64:ff9b:1::'],
    ['2002:7f00:1::'],
    ['2002:a9fe:a9fe::1'],
    ['2002:c0a8:101::1'],
    ['not an address'],
    ['127.1'],
    ['0177.0.0.1'],
    ['2130706433'],
    [''],
  ])('%s is forbidden', (ip) => {
    expect(isForbiddenAddress(ip, [])).toBe(true);
  });

  it.each([
    ['1.1.1.1'],
    ['8.8.8.8'],
    ['9.255.255.255'],
    ['11.0.0.0'],
    ['100.63.255.255'],
    ['100.128.0.0'],
    ['126.255.255.255'],
    ['128.0.0.0'],
    ['168.63.129.17'],
    ['169.253.255.255'],
    ['172.15.255.255'],
    ['172.32.0.0'],
    ['192.0.1.1'],
    ['192.167.255.255'],
    ['198.17.255.255'],
    ['198.20.0.0'],
    ['223.255.255.255'],
    ['2001:200::1'],
    ['2606:4700:4700::1111'],
    ['2a00:1450:4001::1'],
    ['3ffe::1'],
    ['::ffff:8.8.8.8'],
    ['::ffff:0:8.8.8.8'],
    ['::8.8.8.8'],
    ['64:ff9b::8.8.8.8'],
    ['64:ff9b:1::8.8.8.8'],
    ['2002:808:808::1'],
  ])('%s is not', (ip) => {
    expect(isForbiddenAddress(ip, [])).toBe(false);
  });

  it('opens what the allow list names, also where IPv6 carries it, and nothing beside it', () => {
    const allow = parseAllowNetworks(' 127.0.0.0/8 , fd12::/16,10.1.2.3,::ffff:192.168.0.0/120 ');
    for (const ip of ['127.0.0.1', '::ffff:127.0.0.1', '64:ff9b::127.0.0.1', 'fd12::9', '10.1.2.3', '192.168.0.9']) {
      expect(isForbiddenAddress(ip, allow), ip).toBe(false);
    }
    for (const ip of ['10.1.2.4', '::1', 'fd13::9', '192.168.1.1']) {
      expect(isForbiddenAddress(ip, allow), ip).toBe(true);
    }
  });

  it('does not open IPv4 by a wide IPv6 network', () => {
    expect(isForbiddenAddress('::ffff:127.0.0.1', parseAllowNetworks('::/0'))).toBe(true);
    expect(isForbiddenAddress('::1', parseAllowNetworks('::/0'))).toBe(false);
  });
});

/** The ranges of the IANA special-purpose registries that are not globally reachable, and what else leads inside. */
const SPECIAL_V4 = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '168.63.129.16/32',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
];
const SPECIAL_V6 = [
  '::/128',
  '::1/128',
  '100::/64',
  '100:0:0:1::/64',
  '2001::/23',
  '2001::/32',
  '2001:db8::/32',
  '3fff::/20',
  '5f00::/16',
  'fc00::/7',
  'fe80::/10',
  'fec0::/10',
  'ff00::/8',
];

/** First and last address of a network. */
function ends(cidr: string): [string, string] {
  const [address, bits] = ipaddr.parseCIDR(cidr);
  const bytes = address.toByteArray();
  const filled = (byte: 0 | 255) =>
    bytes.map((given, at) => {
      const kept = Math.max(0, Math.min(8, bits - at * 8));
      const mask = (0xff << (8 - kept)) & 0xff;
      return (given & mask) | (byte & ~mask & 0xff);
    });
  return [ipaddr.fromByteArray(filled(0)).toString(), ipaddr.fromByteArray(filled(255)).toString()];
}

describe('every special range', () => {
  it.each([...SPECIAL_V4, ...SPECIAL_V6])('%s is forbidden from its first address to its last', (cidr) => {
    for (const address of ends(cidr)) expect(isForbiddenAddress(address, []), address).toBe(true);
  });

  it.each(SPECIAL_V4)('%s is forbidden wherever IPv6 carries it', (cidr) => {
    for (const address of ends(cidr)) {
      const [a = 0, b = 0, c = 0, d = 0] = address.split('.').map(Number);
      const [high, low] = [(a * 256 + b).toString(16), (c * 256 + d).toString(16)];
      const forms = [
        `::ffff:${address}`,
        `::ffff:${high}:${low}`,
        `::ffff:0:${high}:${low}`,
        `64:ff9b::${high}:${low}`,
        `64:ff9b:1::${high}:${low}`,
        `2002:${high}:${low}::`,
        `2002:${high}:${low}:1:2:3:4:5`,
        `2001:0:${high}:${low}::1`,
        `::${high}:${low}`,
      ];
      for (const form of forms) {
        expect(isForbiddenAddress(form, []), form).toBe(true);
        expect(checkEndpointUrl(`https://[${form}]/hook`, []).ok, form).toBe(false);
      }
    }
  });

  it.each(SPECIAL_V4)('%s is refused in every spelling of a URL', (cidr) => {
    for (const address of ends(cidr)) {
      const parts = address.split('.').map(Number);
      const whole = parts.reduce((sum, part) => sum * 256 + part, 0);
      const [a = 0, b = 0, c = 0, d = 0] = parts;
      const spellings = [
        address,
        `${address}.`,
        String(whole),
        `0x${whole.toString(16)}`,
        `0${whole.toString(8)}`,
        parts.map((part) => `0x${part.toString(16)}`).join('.'),
        parts.map((part) => `0${part.toString(8)}`).join('.'),
        `${a}.${whole - a * 2 ** 24}`,
        `${a}.${b}.${c * 256 + d}`,
        `0x${a.toString(16)}.0${b.toString(8)}.${c}.${d}`,
        address.replaceAll('.', '%2e'),
      ];
      for (const host of spellings)
        for (const port of ['', ':80', ':6379'])
          expect(checkEndpointUrl(`http://${host}${port}/`, []), host).toEqual({
            ok: false,
            reason: 'must not point to a private or reserved address',
          });
    }
  });
});

describe('parseAllowNetworks', () => {
  it('takes an empty list', () => {
    expect(parseAllowNetworks('')).toEqual([]);
    expect(parseAllowNetworks(' , ')).toEqual([]);
  });

  it.each([
    'localhost',
    '127.1',
    '10.0.0.0/33',
    '10.0.0.0/',
    '10.0.0.0/-1',
    '0x7f.0.0.1',
    '::1/129',
    'fe80::1%lo',
    '10.0.0.0/8/8',
  ])('refuses %s by name', (part) => {
    expect(() => parseAllowNetworks(`127.0.0.1,${part}`)).toThrow(InvalidNetworkError);
    expect(() => parseAllowNetworks(`127.0.0.1,${part}`)).toThrow(`"${part}"`);
  });
});

describe('checkEndpointUrl', () => {
  const loopbackSpellings = [
    'http://127.0.0.1/',
    'http://127.0.0.1./',
    'http://127.1/',
    'http://127.0.1/',
    'http://2130706433/',
    'http://2130706433./',
    'http://0x7f000001/',
    'http://0x7F.1/',
    'http://017700000001/',
    'http://0177.0.0.1/',
    'http://0177.0x0.0.01/',
    'http://%31%32%37.0.0.1/',
    'http://127%2E0%2E0%2E1/',
    'http://１２７.０.０.１/',
    'http://①②⑦.0.0.1/',
    'http://127。0。0。1/',
    'http:\\\\127.0.0.1\\',
    'http:127.0.0.1/',
    'http:///127.0.0.1/',
    'HTTP://127.0.0.1:8080/x?y=z',
    'http://[::1]/',
    'http://[0:0:0:0:0:0:0:1]:80/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:7f00:1]/',
    'http://[::127.0.0.1]/',
    'http://[64:ff9b::7f00:1]/',
    'http://[2002:7f00:1::]/',
    'http://localhost/',
    'http://LOCALHOST:3000/',
    'http://localhost./',
    'http://api.localhost/',
    'http://api.localhost./',
    'http://%6c%6f%63alhost/',
    'http://ｌｏｃａｌｈｏｓｔ/',
  ];

  it.each(loopbackSpellings)('refuses %s, and takes it when loopback is allowed', (url) => {
    expect(checkEndpointUrl(url, [])).toEqual({ ok: false, reason: 'must not point to a private or reserved address' });
    expect(checkEndpointUrl(url, LOOPBACK).ok).toBe(true);
  });

  it.each([
    ['http://0/', 'private or reserved'],
    ['http://0.0.0.0/', 'private or reserved'],
    ['http://[::]/', 'private or reserved'],
    ['http://169.254.169.254/latest/meta-data/', 'private or reserved'],
    ['http://2852039166/', 'private or reserved'],
    ['http://[fd00:ec2::254]/', 'private or reserved'],
    ['http://10.0.0.1:8080/', 'private or reserved'],
    ['ftp://example.com/', 'http or https'],
    ['file:///etc/passwd', 'http or https'],
    ['gopher://example.com/', 'http or https'],
    ['javascript:alert(1)', 'http or https'],
    ['data:text/plain,x', 'http or https'],
    ['//example.com/', 'absolute URL'],
    ['example.com/hook', 'absolute URL'],
    ['', 'absolute URL'],
    ['http://', 'absolute URL'],
    ['http://[fe80::1%25eth0]/', 'absolute URL'],
    ['http://256.0.0.1/', 'absolute URL'],
    ['http://a b/', 'spaces or control'],
    [' http://example.com/', 'spaces or control'],
    ['http://exa\nmple.com/', 'spaces or control'],
    ['http://example.com/\0', 'spaces or control'],
    ['http://user@example.com/', 'credentials'],
    ['http://user:pass@example.com/', 'credentials'],
    ['http://:pass@example.com/', 'credentials'],
    ['http://example.com@127.0.0.1/', 'credentials'],
    ['http://example.com/#top', 'fragment'],
    ['http://example.com/#', 'fragment'],
    ['http://example..com/', 'valid host'],
    ['http://.example.com/', 'valid host'],
  ])('refuses %s', (url, reason) => {
    const checked = checkEndpointUrl(url, []);
    expect(checked).toEqual({ ok: false, reason: expect.stringContaining(reason) });
  });

  it.each([
    ['https://example.com/hook?a=b', 'https://example.com/hook?a=b'],
    ['https://Example.COM', 'https://example.com/'],
    ['http://example.com:8080/', 'http://example.com:8080/'],
    ['https://bücher.example/', 'https://xn--bcher-kva.example/'],
    ['http://8.8.8.8/', 'http://8.8.8.8/'],
    ['http://[2606:4700:4700::1111]/', 'http://[2606:4700:4700::1111]/'],
    ['https://example.com./', 'https://example.com./'],
    ['https://localhost.example.com/', 'https://localhost.example.com/'],
  ])('takes %s', (url, href) => {
    const checked = checkEndpointUrl(url, []);
    expect(checked).toMatchObject({ ok: true });
    expect(checked.ok && checked.url.href).toBe(href);
  });
});

it('bounds a URL at 2,048 characters, as written and as sent, and a host at 253', () => {
  const tooLong = { ok: false, reason: 'must be at most 2048 characters' };
  expect(checkEndpointUrl(`http://example.com/${'a'.repeat(2_029)}`, [])).toMatchObject({ ok: true });
  expect(checkEndpointUrl(`http://example.com/${'a'.repeat(2_030)}`, [])).toEqual(tooLong);
  expect(checkEndpointUrl(`http://example.com/${'é'.repeat(1_000)}`, [])).toEqual(tooLong);
  expect(checkEndpointUrl(`http://${'a.'.repeat(130)}com/`, [])).toEqual({
    ok: false,
    reason: 'must have a valid host',
  });
});

describe('guardedLookup', () => {
  /** Calls a lookup as `net.connect` does. */
  function ask(lookup: LookupFunction, host: string, options: { all?: boolean; family?: number } = { all: true }) {
    return new Promise<unknown>((resolve, reject) => {
      lookup(host, options, (error, address, family) => {
        if (error) reject(error);
        else resolve(Array.isArray(address) ? address : { address, family });
      });
    });
  }

  const PUBLIC = { address: '93.184.215.14', family: 4 };
  const PUBLIC_6 = { address: '2606:2800:21f::1', family: 6 };
  const INSIDE = { address: '10.0.0.7', family: 4 };

  it('hands on every address that was checked', async () => {
    const lookup = guardedLookup([], async () => [PUBLIC, PUBLIC_6]);
    expect(await ask(lookup, 'example.com')).toEqual([PUBLIC, PUBLIC_6]);
    expect(await ask(lookup, 'example.com', {})).toEqual(PUBLIC);
    expect(await ask(lookup, 'example.com', { family: 6 })).toEqual(PUBLIC_6);
    expect(await ask(lookup, 'example.com', { all: true, family: 4 })).toEqual([PUBLIC]);
  });

  it('fails by name when one answer of many is forbidden, also one of the family not asked for', async () => {
    const lookup = guardedLookup([], async () => [PUBLIC_6, PUBLIC, INSIDE]);
    const failure = { name: 'ForbiddenAddressError', code: 'ERR_FORBIDDEN_ADDRESS', message: /10\.0\.0\.7/ };
    await expect(ask(lookup, 'mixed.example')).rejects.toMatchObject({
      ...failure,
      message: expect.stringMatching(failure.message),
    });
    await expect(ask(lookup, 'mixed.example', { family: 6 })).rejects.toBeInstanceOf(ForbiddenAddressError);
  });

  it('fails as not found without an answer, and passes the resolver’s own error on', async () => {
    await expect(
      ask(
        guardedLookup([], async () => []),
        'a.example',
      ),
    ).rejects.toMatchObject({ code: 'ENOTFOUND' });
    const broken = guardedLookup([], () => Promise.reject(Object.assign(new Error('later'), { code: 'EAI_AGAIN' })));
    await expect(ask(broken, 'a.example')).rejects.toMatchObject({ code: 'EAI_AGAIN' });
  });

  it('guards what the resolver of webhooks answers', async () => {
    await expect(ask(guardedLookup([], createResolve()), 'localhost')).rejects.toBeInstanceOf(ForbiddenAddressError);
    const answers = await ask(guardedLookup(LOOPBACK, createResolve()), 'localhost');
    expect(answers).toContainEqual({ address: '127.0.0.1', family: 4 });
  });

  it('shares one resolution between lookups that overlap, and asks anew afterwards', async () => {
    let asked = 0;
    let answer: (addresses: ResolvedAddress[]) => void = () => {};
    const lookup = guardedLookup([], () => {
      asked++;
      return new Promise((resolve) => {
        answer = resolve;
      });
    });
    const both = [ask(lookup, 'slow.example'), ask(lookup, 'slow.example')];
    answer([PUBLIC]);
    await Promise.all(both);
    expect(asked).toBe(1);
    const third = ask(lookup, 'slow.example');
    answer([INSIDE]);
    await expect(third).rejects.toBeInstanceOf(ForbiddenAddressError);
    expect(asked).toBe(2);
  });

  it('leaves no gap for a name that rebinds: what is dialled is what was checked', async () => {
    const dialled: string[] = [];
    const server = createServer((socket) => socket.end()).listen(0, '127.0.0.2');
    await new Promise((resolve) => server.once('listening', resolve));
    const bound = server.address();
    if (bound === null || typeof bound === 'string') throw new Error('not bound');
    // Checked: 127.0.0.2, which is allowed here. From then on the name says 127.0.0.1, which is not.
    const answers = ['127.0.0.2', '127.0.0.1', '127.0.0.1'];
    const lookup = guardedLookup(parseAllowNetworks('127.0.0.2'), async () => {
      const address = answers.shift() ?? '127.0.0.1';
      return [{ address, family: isIPv4(address) ? 4 : 6 }];
    });
    const dial = () =>
      new Promise<void>((resolve, reject) => {
        const socket = connect({ host: 'rebind.example', port: bound.port, lookup });
        socket.once('connect', () => dialled.push(socket.remoteAddress ?? ''));
        socket.once('error', reject).once('close', () => resolve());
        socket.resume();
      });
    await dial();
    expect(dialled).toEqual(['127.0.0.2']);
    await expect(dial()).rejects.toBeInstanceOf(ForbiddenAddressError);
    expect(dialled).toHaveLength(1);
    await new Promise((resolve) => server.close(resolve));
  });
});
