import { isIP } from 'node:net';
import { getConnInfo } from '@hono/node-server/conninfo';
import type { Context } from 'hono';
import ipaddr from 'ipaddr.js';

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Range = [Address, number];

/** The address of whoever sent the request, or `undefined` when there is no socket (a request made in process). */
export type ClientAddress = (c: Context) => string | undefined;

/**
 * The socket's address; behind a trusted proxy, the rightmost address of `X-Forwarded-For` that is no trusted proxy
 * itself, since everything to its left was written by the client. Throws when `trusted` holds something that is
 * neither an address nor a CIDR range.
 */
export function clientAddress(trusted: string[]): ClientAddress {
  const ranges = trusted.map(parseRange);
  const isTrusted = (address: Address) =>
    ranges.some(([range, bits]) => range.kind() === address.kind() && address.match(range, bits));
  return (c) => {
    const remote = remoteAddress(c);
    // Parsing costs a tenth of a plain request; without a proxy to look behind there is nothing to find out.
    if (ranges.length === 0) return plainAddress(remote);
    const socket = parse(remote);
    if (!socket) return undefined;
    let current = socket;
    const hops = (c.req.header('x-forwarded-for') ?? '').split(',');
    while (isTrusted(current) && hops.length > 0) {
      const next = parse(hops.pop());
      if (!next) break;
      current = next;
    }
    return current.toString();
  };
}

/** A socket's address as it is written everywhere: an IPv4 address that came over an IPv6 socket is an IPv4 address. */
export function plainAddress(remote: string | undefined): string | undefined {
  const address =
    remote?.startsWith('::ffff:') && isIP(remote.slice(7)) === 4 ? remote.slice(7) : remote?.replace(/%.*$/, '');
  return address && isIP(address) ? address : undefined;
}

/** The key that limits count by: an IPv6 address stands for its /64, which one subscriber owns whole (RFC 6177). */
export function limitKey(ip: string | undefined): string {
  const address = parse(ip);
  if (!address) return 'unknown';
  if (address.kind() === 'ipv4') return address.toString();
  const [a = 0, b = 0, c = 0, d = 0] = (address as ipaddr.IPv6).parts;
  return `${[a, b, c, d].map((part) => part.toString(16)).join('-')}/64`;
}

function remoteAddress(c: Context): string | undefined {
  const bindings = c.env as { incoming?: unknown } | undefined;
  return bindings?.incoming ? getConnInfo(c).remote.address : undefined;
}

/** Accepts `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1`, `[2001:db8::1]:5678` and IPv4-mapped forms. */
function parse(text: string | undefined): Address | undefined {
  const trimmed = text?.trim() ?? '';
  const bare =
    /^\[([^\]]+)\](?::\d+)?$/.exec(trimmed)?.[1] ?? /^(\d+\.\d+\.\d+\.\d+):\d+$/.exec(trimmed)?.[1] ?? trimmed;
  const withoutZone = bare.replace(/%.*$/, '');
  if (!ipaddr.IPv4.isValidFourPartDecimal(withoutZone) && !ipaddr.IPv6.isValid(withoutZone)) return undefined;
  return ipaddr.process(withoutZone);
}

function parseRange(text: string): Range {
  if (ipaddr.isValidCIDR(text)) return ipaddr.parseCIDR(text);
  const single = parse(text);
  if (!single) throw new Error(`"${text}" is no trusted proxy: it must be an IP address or a CIDR range`);
  return [single, single.kind() === 'ipv4' ? 32 : 128];
}
