import { standingHeaders } from '../api/app.ts';
import { type ExpressDeps, expressLane, type Listener, type Publisher, Unplain } from '../api/express.ts';
import type { Observe } from '../api/middleware/request.ts';
import { RateLimiter } from '../api/rate-limiter.ts';
import { eventInput } from '../api/routes/events.ts';
import { type Publication, preparePublication } from '../domain/events/publication.ts';
import { actorText } from '../domain/messages/envelope.ts';
import type { Authenticate } from '../domain/sessions/authenticate.ts';
import type { Memory } from './memory.ts';
import type { Runtime } from './runtime.ts';

/** Builds the express lane of `POST /events` from the parts that the application's own route is made of. */
export async function composeExpressLane(
  runtime: Runtime,
  memory: Memory,
  authenticate: Authenticate,
  observe: Observe,
): Promise<(application: Listener) => Listener> {
  const { config, log, messaging, operationIds } = runtime;
  const limits = config.rateLimits;
  // Counts in the same keys of Redis as the application's; only what is kept in memory while Redis is away is its own.
  const limiter =
    limits === 'off'
      ? undefined
      : new RateLimiter({ redis: messaging.redis, namespace: config.namespace, limits, log });

  const publisher = async (token: string): Promise<Publisher | undefined> => {
    if (token.startsWith('wb_')) {
      const client = await memory.apiKeys.authenticate(token);
      if (!client?.scopes.includes('events:write')) return undefined;
      return { actor: { type: 'api_key', id: client.keyId }, tenant: client.tenant };
    }
    const session = await authenticate(token);
    return session?.role === 'admin' && !session.mustEnrol
      ? { actor: { type: 'user', id: session.userId, role: session.role }, tenant: 'default' }
      : undefined;
  };

  const count: ExpressDeps['count'] = async (actor) => {
    if (!limiter) return {};
    const { allowed, limit, remaining, resetMs } = await limiter.take(
      actor.type === 'api_key' ? 'user' : 'admin',
      actor.id ?? '',
    );
    if (!allowed) return undefined;
    return {
      'x-ratelimit-limit': String(limit),
      'x-ratelimit-remaining': String(remaining),
      'x-ratelimit-reset': String(Math.ceil((Date.now() + resetMs) / 1000)),
    };
  };

  const publish: ExpressDeps['publish'] = async (body, who, context) => {
    const parsed = eventInput.safeParse(body);
    if (!parsed.success) throw new Unplain();
    const types = await memory.eventTypes.find(who.tenant, [parsed.data.type]);
    const publishing = { tenant: who.tenant, caller: actorText(who.actor) };
    let publication: Publication;
    try {
      publication = preparePublication(parsed.data, publishing, types);
    } catch {
      throw new Unplain();
    }
    if (publication.deprecated) throw new Unplain();
    await messaging.publishEvent(publication.contract, publication.data, context, publication.options);
    return publication.options.id;
  };

  const headers = await standingHeaders(config);
  const reserved = (id: string) => operationIds.issuedAt(id) !== undefined;
  return (application) => expressLane({ publisher, count, publish, reserved, headers, observe, log }, application);
}
