import { Resolver, lookup as systemLookup } from 'node:dns/promises';
import type { Resolve, ResolvedAddress } from './addresses.ts';

/*
 * Names of subscribers to addresses, so that a name server that says nothing holds up nobody but those who ask for that
 * name. getaddrinfo occupies one of libuv's few threads until it has an answer, and with them the whole process's files
 * and names; c-ares occupies none. But c-ares knows neither the hosts file nor search domains, which getaddrinfo does (a
 * name with a dot that both know is what the name servers say):
 *
 *   localhost ─────────────────────────────────────────────► getaddrinfo (the hosts file answers it)
 *   a name without a dot ──────────────────────────────────► getaddrinfo, one at a time
 *   any other ──► c-ares, A and AAAA ──it does not know it──► getaddrinfo, one at a time
 */

/** Per question and server, in ms; c-ares doubles it for the second try. */
const QUERY_MS = 3000;
const TRIES = 2;
/** How long the other family may take once one has addresses, in ms: some servers never answer AAAA. */
const OTHER_FAMILY_MS = 500;
/** c-ares does not know such a name, or has nobody to ask; the hosts file and search domains may know it. */
const UNKNOWN = ['ENOTFOUND', 'ENODATA', 'EBADNAME', 'ECONNREFUSED'];

export interface ResolverOptions {
  /** For everything, in ms. Default 10,000. */
  timeoutMs?: number;
  /** Name servers (`127.0.0.1:53`) instead of the system's. */
  servers?: readonly string[];
  /** getaddrinfo, for tests. */
  system?: Resolve;
}

/** All addresses of names. Rejects as `dns.promises.lookup` does: ENOTFOUND for a name without any, else EAI_AGAIN. */
export function createResolve({ timeoutMs = 10_000, servers, system = bySystem }: ResolverOptions = {}): Resolve {
  const oneAtATime = inTurn(system);
  return async (host) => {
    const name = host.replace(/\.$/, '').toLowerCase();
    if (name === 'localhost') return system(host);
    const end = AbortSignal.timeout(timeoutMs);
    const answers = name.includes('.') ? await byServers(host, end, servers) : [];
    return answers.length > 0 ? answers : oneAtATime(host, end);
  };
}

/** Empty when the name servers do not know the name. */
async function byServers(
  host: string,
  end: AbortSignal,
  servers: readonly string[] | undefined,
): Promise<ResolvedAddress[]> {
  // Of its own: `cancel` ends every question of a resolver.
  const resolver = new Resolver({ timeout: QUERY_MS, tries: TRIES });
  if (servers) resolver.setServers(servers);
  const cancel = () => resolver.cancel();
  end.addEventListener('abort', cancel, { once: true });
  const families = [
    resolver.resolve4(host).then((found) => found.map((address) => ({ address, family: 4 }))),
    resolver.resolve6(host).then((found) => found.map((address) => ({ address, family: 6 }))),
  ];
  let patience: NodeJS.Timeout | undefined;
  Promise.any(families).then(
    () => {
      patience = setTimeout(cancel, OTHER_FAMILY_MS);
    },
    () => undefined,
  );
  const settled = await Promise.allSettled(families);
  clearTimeout(patience);
  end.removeEventListener('abort', cancel);
  const addresses = settled.flatMap((family) => (family.status === 'fulfilled' ? family.value : []));
  if (addresses.length > 0) return addresses;
  for (const family of settled) {
    const code = family.status === 'rejected' ? String(family.reason.code) : '';
    // Only getaddrinfo's words: those of c-ares read as if a connection had been refused, or had timed out.
    if (family.status === 'rejected' && !UNKNOWN.includes(code)) throw tryAgain(`${host}: ${code}`, family.reason);
  }
  return [];
}

/** Asks one at a time. Whoever's time is over leaves the line; what is being asked cannot be called back. */
function inTurn(ask: Resolve): (host: string, end: AbortSignal) => Promise<readonly ResolvedAddress[]> {
  let last: Promise<unknown> = Promise.resolve();
  return (host, end) => {
    const answer = last.then(() => {
      if (end.aborted) throw tryAgain(`${host}: timed out`);
      return ask(host);
    });
    last = answer.catch(() => undefined);
    return new Promise((resolve, reject) => {
      const expire = () => reject(tryAgain(`${host}: timed out`));
      if (end.aborted) expire();
      end.addEventListener('abort', expire, { once: true });
      answer.then(resolve, reject).finally(() => end.removeEventListener('abort', expire));
    });
  };
}

const tryAgain = (message: string, cause?: unknown): Error =>
  Object.assign(new Error(message, { cause }), { code: 'EAI_AGAIN' });

const bySystem: Resolve = (host) => systemLookup(host, { all: true });
