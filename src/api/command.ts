import { createHmac } from 'node:crypto';
import canonicalize from 'canonicalize';
import { routePath } from 'hono/route';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import type { Contract } from '../domain/messages/contracts.ts';
import { actorText } from '../domain/messages/envelope.ts';
import { claimIdempotencyKey, type IdempotencyClaim, releaseIdempotencyKey } from '../domain/operations/idempotency.ts';
import { refuse } from '../domain/problem.ts';
import { BrokerUnavailable, type CommandAnswer } from '../queues/gateway.ts';
import { API_BASE } from './app.ts';
import type { ApiDeps } from './deps.ts';
import { type Preferences, preferencesOf } from './preferences.ts';
import { type Answer, ok, problemResponse } from './respond.ts';
import type { ApiContext } from './router.ts';

export type CommandDeps = Pick<ApiDeps, 'config' | 'commands' | 'operationIds' | 'keyring' | 'database'>;

export interface CommandOptions {
  /** Present when the route honours `Idempotency-Key`: the plain body, since sealed secrets differ on every request. */
  idempotent?: { fingerprintOf: unknown };
}

/**
 * Publishes a command and answers as the product contract's "Commands" says: with the worker's result when it comes in
 * time, else 202 and where to follow it. A repeat under the same `Idempotency-Key` publishes the same operation again
 * and gets its answer. Throws `Refusal` (400, 422) and lets `BrokerUnavailable` (503) pass.
 */
export async function answerCommand<T>(
  c: ApiContext,
  deps: CommandDeps,
  contract: Contract<T>,
  data: T,
  options: CommandOptions = {},
): Promise<Answer> {
  const preferences = preferencesOf(c.req.header('prefer'));
  const waitMs = preferences.waitMs ?? (preferences.respondAsync ? 0 : deps.config.commandWaitMs);
  const claim = options.idempotent ? claimOf(c, deps, contract.type, options.idempotent.fingerprintOf) : undefined;
  const { operationId, fresh } = claim
    ? await take(deps, claim)
    : { operationId: deps.operationIds.issue(contract.type), fresh: true };
  const context = { ...c.get('context'), correlationId: operationId };
  c.get('log').info({ operation_id: operationId, type: contract.type }, 'command');
  let answer: CommandAnswer;
  try {
    answer = await deps.commands.send(contract, data, context, { operationId, waitMs, repeat: !fresh });
  } catch (error) {
    // What the broker may have taken keeps its key: a repeat under the same operation is done once either way.
    if (claim && error instanceof BrokerUnavailable && !error.sent)
      await releaseIdempotencyKey(deps.database.em.fork(), claim, operationId);
    throw error;
  }
  const { operation } = answer;

  acknowledge(c, preferences);
  const atOnce = preferences.respondAsync && preferences.waitMs === undefined;
  if (!operation || operation.status === 'running' || atOnce) {
    return acceptedAnswer(c, operationId, contract.type);
  }
  if (operation.status === 'failed')
    return problemResponse(c, operation.error ?? { code: 'INTERNAL_ERROR', message: 'the operation failed' });
  return ok(c, operation.result, { status: (operation.httpStatus ?? 200) as ContentfulStatusCode });
}

/** 202: the work goes on, and where to follow it. */
export function acceptedAnswer(c: ApiContext, operationId: string, type: string): Answer {
  const headers = { Location: `${API_BASE}/operations/${operationId}`, 'Retry-After': '1' };
  return ok(c, { operation_id: operationId, type, status: 'accepted' }, { status: 202, headers });
}

/** `Preference-Applied` names what was honoured (RFC 7240, section 3). */
export function acknowledge(c: ApiContext, preferences: Preferences): void {
  if (preferences.applied.length > 0) c.header('Preference-Applied', preferences.applied.join(', '));
}

const KEY = /^[\x20-\x7e]{1,255}$/;

/** What `Idempotency-Key` claims for this caller, route and body, or `undefined` without the header. */
function claimOf(c: ApiContext, deps: CommandDeps, type: string, body: unknown): IdempotencyClaim | undefined {
  const key = c.req.header('idempotency-key');
  if (key === undefined) return undefined;
  if (!KEY.test(key))
    refuse('VALIDATION_ERROR', 'Idempotency-Key must be 1 to 255 printable ASCII characters', {
      field: 'Idempotency-Key',
    });
  const { actor } = c.get('context');
  const route = `${c.req.method} ${routePath(c)}`;
  // The path belongs to it: one route serves many resources, and their answers differ.
  const canonical = canonicalize({ path: c.req.path, body: body ?? null }) ?? '';
  const keys = deps.keyring.for('fingerprint');
  return {
    scope: actor.type === 'anonymous' ? route : `${actorText(actor)} ${route}`,
    key,
    kid: keys.current().kid,
    fingerprint: (kid) => {
      const secret = keys.byKid(kid);
      return secret && createHmac('sha256', secret).update(canonical).digest();
    },
    operationId: deps.operationIds.issue(type),
  };
}

async function take(deps: CommandDeps, claim: IdempotencyClaim): Promise<{ operationId: string; fresh: boolean }> {
  const taken = await claimIdempotencyKey(deps.database.em.fork(), claim);
  if (taken === 'other-body')
    refuse('IDEMPOTENCY_KEY_REUSED', 'this Idempotency-Key was used with another request', {
      field: 'Idempotency-Key',
    });
  return taken;
}
