import type { LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';

/*
 * Where a webhook must not go (server-side request forgery). Two guards: `checkEndpointUrl` refuses what can be seen in
 * a URL when an endpoint is created or changed; `guardedLookup` refuses what a name resolves to at the moment it is
 * dialled, and hands the dialler the very addresses it checked, so that a name cannot change its answer in between.
 */

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Network = readonly [Address, number];

/** Networks that are opened although they are forbidden, from `parseAllowNetworks`. */
export type AllowNetworks = readonly Network[];

/** One answer of a resolver. */
export interface ResolvedAddress {
  readonly address: string;
  readonly family: number;
}

/** Resolves a host name to all its addresses. Rejects as `dns.promises.lookup` does. */
export type Resolve = (host: string) => Promise<readonly ResolvedAddress[]>;

/** A part of an allow list that is neither an address nor a CIDR network; the message names it. */
export class InvalidNetworkError extends Error {
  override readonly name = 'InvalidNetworkError';
}

/** A connection that was not made because it would have led to a forbidden address. */
export class ForbiddenAddressError extends Error {
  override readonly name = 'ForbiddenAddressError';
  readonly code = 'ERR_FORBIDDEN_ADDRESS';
  constructor(host: string, address: string) {
    super(
      host === address ? `${address} is a forbidden address` : `${host} resolves to ${address}, a forbidden address`,
    );
  }
}

/** From the IANA special-purpose registries. Ranges inside a wider one are named so that nobody has to look them up. */
const FORBIDDEN_RANGES: readonly (readonly [cidr: string, what: string, source: string])[] = [
  ['0.0.0.0/8', 'this network, unspecified', 'RFC 1122 3.2.1.3'],
  ['10.0.0.0/8', 'private', 'RFC 1918'],
  ['100.64.0.0/10', 'carrier-grade NAT; holds metadata 100.100.100.200', 'RFC 6598'],
  ['127.0.0.0/8', 'loopback', 'RFC 1122 3.2.1.3'],
  ['168.63.129.16/32', 'metadata: a public address that is the platform host inside Azure', 'Azure manual'],
  ['169.254.0.0/16', 'link-local; holds metadata 169.254.169.254', 'RFC 3927'],
  ['172.16.0.0/12', 'private', 'RFC 1918'],
  ['192.0.0.0/24', 'protocol assignments; holds metadata 192.0.0.192', 'RFC 6890'],
  ['192.0.2.0/24', 'documentation', 'RFC 5737'],
  ['192.88.99.0/24', '6to4 relay anycast, withdrawn', 'RFC 7526'],
  ['192.168.0.0/16', 'private', 'RFC 1918'],
  ['198.18.0.0/15', 'benchmarks', 'RFC 2544'],
  ['198.51.100.0/24', 'documentation', 'RFC 5737'],
  ['203.0.113.0/24', 'documentation', 'RFC 5737'],
  ['224.0.0.0/4', 'multicast', 'RFC 5771'],
  ['255.255.255.255/32', 'broadcast', 'RFC 919'],
  ['240.0.0.0/4', 'reserved', 'RFC 1112'],
  ['::/128', 'unspecified', 'RFC 4291'],
  ['::1/128', 'loopback', 'RFC 4291'],
  ['100::/64', 'discard only', 'RFC 6666'],
  ['2001::/32', 'Teredo', 'RFC 4380'],
  ['2001:2::/48', 'benchmarks', 'RFC 5180'],
  ['2001:10::/28', 'ORCHID', 'RFC 4843'],
  ['2001:20::/28', 'ORCHIDv2', 'RFC 7343'],
  ['2001::/23', 'protocol assignments', 'RFC 2928'],
  ['2001:db8::/32', 'documentation', 'RFC 3849'],
  ['3fff::/20', 'documentation', 'RFC 9637'],
  ['fc00::/7', 'unique local; holds metadata fd00:ec2::254', 'RFC 4193'],
  ['fe80::/10', 'link-local', 'RFC 4291'],
  ['fec0::/10', 'site-local, withdrawn', 'RFC 3879'],
  ['ff00::/8', 'multicast', 'RFC 4291'],
  // Global unicast is handed out of 2000::/3 alone; the three networks below are everything else.
  ['::/3', 'not global unicast', 'RFC 4291 2.4'],
  ['4000::/2', 'not global unicast', 'RFC 4291 2.4'],
  ['8000::/1', 'not global unicast', 'RFC 4291 2.4'],
];

/** IPv6 networks that carry an IPv4 address, and the byte positions it can have in them. */
const EMBEDDING_RANGES: readonly (readonly [cidr: string, what: string, bytes: readonly (readonly number[])[]])[] = [
  ['::ffff:0:0/96', 'IPv4-mapped, RFC 4291 2.5.5.2', [[12, 13, 14, 15]]],
  ['::ffff:0:0:0/96', 'IPv4-translated, RFC 7915', [[12, 13, 14, 15]]],
  ['::/96', 'IPv4-compatible, RFC 4291 2.5.5.1', [[12, 13, 14, 15]]],
  ['64:ff9b::/96', 'NAT64, RFC 6052', [[12, 13, 14, 15]]],
  [
    '64:ff9b:1::/48',
    // The operator chooses a prefix length, which moves the address: /96, /64, /56 or /48 (RFC 6052 2.2).
    'local NAT64, RFC 8215',
    [
      [12, 13, 14, 15],
      [9, 10, 11, 12],
      [7, 9, 10, 11],
      [6, 7, 9, 10],
    ],
  ],
  ['2002::/16', '6to4, RFC 3056', [[2, 3, 4, 5]]],
];

const FORBIDDEN: readonly Network[] = FORBIDDEN_RANGES.map(([cidr]) => ipaddr.parseCIDR(cidr));
const EMBEDDING = EMBEDDING_RANGES.map(([cidr, , bytes]) => ({ network: ipaddr.parseCIDR(cidr), bytes }));
const IPV4_MAPPED = ipaddr.parseCIDR('::ffff:0:0/96');

/**
 * Reads `WEBHOOK_ALLOW_NETWORKS`: addresses and CIDR networks, comma separated; empty is an empty list.
 * Throws `InvalidNetworkError` naming the first part that is neither.
 */
export function parseAllowNetworks(list: string): AllowNetworks {
  return list
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map(parseNetwork);
}

/**
 * Whether a webhook must not be sent to this IP address (text, no brackets). An IPv6 address that carries an IPv4 one
 * is judged by that, also against `allow`. What cannot be read is forbidden.
 */
export function isForbiddenAddress(ip: string, allow: AllowNetworks): boolean {
  const address = parseAddress(ip);
  if (address === null) return true;
  const carried = embedded(address);
  if (carried.length === 0) return isForbidden(address, allow);
  // 0.0.0.0/8 is no destination: a position that reads so is not where the address is, unless none reads otherwise.
  const readings = carried.filter(({ octets }) => octets[0] !== 0);
  return readings.length === 0 || readings.some((reading) => isForbidden(reading, allow));
}

/**
 * Checks a URL that an endpoint is to have. `{ok:true,url}` with the parsed URL (its `href` is the normal form), or
 * `{ok:false,reason}` in words for the caller. Only http and https, no credentials, no fragment, at most 2,048
 * characters, no literal forbidden address in any spelling that the WHATWG URL standard understands, and no `localhost`
 * (RFC 6761 6.3) unless loopback is allowed. A DNS name passes: it is checked whenever it is dialled.
 */
export function checkEndpointUrl(
  text: string,
  allow: AllowNetworks,
): { ok: true; url: URL } | { ok: false; reason: string } {
  if (text.length > 2_048) return refuse('must be at most 2048 characters');
  // The URL parser drops tabs, line ends and outer spaces in silence; a URL with them is a mistake or a trick.
  if (/[\s\u0000-\u001f\u007f]/.test(text)) return refuse('must not contain spaces or control characters');
  if (!URL.canParse(text)) return refuse('must be an absolute URL');
  const url = new URL(text);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return refuse('must be an http or https URL');
  if (url.username !== '' || url.password !== '') return refuse('must not contain credentials');
  if (text.includes('#')) return refuse('must not contain a fragment');
  if (url.href.length > 2_048) return refuse('must be at most 2048 characters');
  const host = url.hostname.replace(/\.$/, '');
  if (host.length > 253 || host.split('.').includes('')) return refuse('must have a valid host');
  if (host.startsWith('[') || ipaddr.IPv4.isValidFourPartDecimal(host)) {
    if (isForbiddenAddress(bare(host), allow)) return refuse('must not point to a private or reserved address');
  } else if (host === 'localhost' || host.endsWith('.localhost')) {
    if (isForbiddenAddress('127.0.0.1', allow) && isForbiddenAddress('::1', allow)) {
      return refuse('must not point to a private or reserved address');
    }
  }
  return { ok: true, url };
}

/**
 * A `lookup` for `net.connect`: resolves all addresses of a name and hands them on only if every one may be dialled,
 * else fails with `ForbiddenAddressError`; a name with one forbidden answer is not to be trusted with the others.
 * `net.connect` does not call it for literal addresses. Lookups of one name that overlap share one resolution; how a
 * name whose DNS hangs is kept from holding up the others is `resolve`'s concern, see resolve.ts.
 */
export function guardedLookup(allow: AllowNetworks, resolve: Resolve): LookupFunction {
  const running = new Map<string, Promise<readonly ResolvedAddress[]>>();

  function resolveOnce(host: string): Promise<readonly ResolvedAddress[]> {
    let answer = running.get(host);
    if (answer === undefined) {
      answer = resolve(host).finally(() => running.delete(host));
      running.set(host, answer);
    }
    return answer;
  }

  return (host, options, callback) => {
    // Out of the promise before the callback: what it throws must not come back to it as a second, failed answer.
    const fail = (error: Error) => setImmediate(callback, error, '');
    resolveOnce(host).then((answers) => {
      const bad = answers.find(({ address }) => isForbiddenAddress(address, allow));
      if (bad !== undefined) return fail(new ForbiddenAddressError(host, bad.address));
      const wanted = { 4: 4, 6: 6, IPv4: 4, IPv6: 6 }[String(options.family)];
      const usable = answers.filter(({ family }) => wanted === undefined || family === wanted);
      const [first] = usable;
      if (first === undefined) return fail(Object.assign(new Error(`${host} has no address`), { code: 'ENOTFOUND' }));
      if (options.all === true) return setImmediate(callback, null, usable);
      return setImmediate(callback, null, first.address, first.family);
    }, fail);
  };
}

function refuse(reason: string): { ok: false; reason: string } {
  return { ok: false, reason };
}

function bare(host: string): string {
  return host.startsWith('[') ? host.slice(1, -1) : host;
}

function parseAddress(text: string): Address | null {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return ipaddr.IPv4.parse(text);
  return ipaddr.IPv6.isValid(text) ? ipaddr.IPv6.parse(text) : null;
}

function parseNetwork(text: string): Network {
  const single = parseAddress(text);
  if (single !== null && !text.includes('%')) return normal([single, single.kind() === 'ipv4' ? 32 : 128]);
  if (ipaddr.IPv4.isValidCIDRFourPartDecimal(text) || ipaddr.IPv6.isValidCIDR(text))
    return normal(ipaddr.parseCIDR(text));
  throw new InvalidNetworkError(`"${text}" is neither an IP address nor a network such as 127.0.0.0/8`);
}

/** IPv4-mapped networks become IPv4 ones, since addresses are compared in that form. */
function normal([address, bits]: Network): Network {
  if (bits < 96 || !within(address, IPV4_MAPPED)) return [address, bits];
  return [ipaddr.process(address.toString()), bits - 96];
}

function within(address: Address, [network, bits]: Network): boolean {
  return address.kind() === network.kind() && address.match(network, bits);
}

function isForbidden(address: Address, allow: AllowNetworks): boolean {
  return FORBIDDEN.some((network) => within(address, network)) && !allow.some((network) => within(address, network));
}

function embedded(address: Address): ipaddr.IPv4[] {
  const found = EMBEDDING.find(({ network }) => within(address, network));
  if (found === undefined) return [];
  const bytes = address.toByteArray();
  // ::1 and :: lie in the IPv4-compatible network but are addresses of their own.
  if (bytes.slice(0, 15).every((byte) => byte === 0) && (bytes[15] ?? 0) <= 1) return [];
  return found.bytes.map((positions) => new ipaddr.IPv4(positions.map((position) => bytes[position] ?? 0)));
}
