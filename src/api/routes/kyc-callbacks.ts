import { createRoute, z } from '@hono/zod-openapi';
import { ADAPTERS, CALLBACK_PROVIDERS, hasCallbacks } from '../../domain/kyc/adapters/index.ts';
import { callbackSchema } from '../../domain/kyc/adapters/webhook.ts';
import { storeCallback } from '../../domain/kyc/callbacks.ts';
import { applyCallbackCommand } from '../../domain/kyc/messages.ts';
import { SYSTEM } from '../../domain/messages/envelope.ts';
import { Refusal, refuse } from '../../domain/problem.ts';
import type { ApiDeps } from '../deps.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, success } from '../schemas.ts';

const EXAMPLE = {
  event_id: 'evt_81c2',
  attempt_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  status: 'approved',
  occurred_at: '2026-11-20T10:20:00Z',
};

/** The body is documented here and checked only after its signature, so no framework may read it first. */
const documentation = createRoute({
  method: 'post',
  path: '/kyc/providers/{provider}/callbacks',
  operationId: 'receiveKycCallback',
  tags: ['KYC'],
  summary: 'A provider tells what came of an identity check',
  description:
    'For the provider in `KYC_PROVIDER`. `webhook`: the body below, signed with `X-Provider-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`, at most 300 s old. `stripe`: events of Stripe Identity’s verification sessions, signed with `Stripe-Signature`, about sessions with the attempt’s id as `metadata.attempt_id`. `sumsub`: signed with `X-Payload-Digest` by `HMAC_SHA256_HEX` or `HMAC_SHA512_HEX`, about applicants with the attempt’s id as `externalUserId`. The same event is taken once; one that is older than what was applied before is recorded and not applied; so is what moves no attempt.',
  request: {
    params: z.object({ provider: z.enum(CALLBACK_PROVIDERS) }),
    headers: z.object({
      'x-provider-signature': z.string().optional(),
      'stripe-signature': z.string().optional(),
      'x-payload-digest': z.string().optional(),
      'x-payload-digest-alg': z.enum(['HMAC_SHA256_HEX', 'HMAC_SHA512_HEX']).optional(),
    }),
    body: jsonBody(z.union([callbackSchema, z.looseObject({ type: z.string() })]), EXAMPLE),
  },
  responses: {
    200: success(z.object({ event_id: z.string(), duplicate: z.boolean() }), {
      description: 'Stored, and on its way.',
      example: { event_id: EXAMPLE.event_id, duplicate: false },
    }),
    ...errorResponses(400, 401, 404, 413, 415, 503),
  },
});

/** Where a provider calls back: stored, handed to the worker, answered. 404 when it is not configured. */
export function kycCallbackRoutes(deps: ApiDeps): ApiRouter {
  const router = createRouter();
  router.openAPIRegistry.registerPath(documentation);
  router.post('/kyc/providers/:provider/callbacks', async (c) => {
    const { provider, secret } = deps.config.kyc;
    if (c.req.param('provider') !== provider || !hasCallbacks(provider) || !secret) {
      refuse('NOT_FOUND', 'there is no such provider');
    }
    const body = Buffer.from(await c.req.arrayBuffer());
    if (!ADAPTERS[provider].isGenuine((name) => c.req.header(name), body, secret)) {
      refuse('UNAUTHORIZED', 'the signature is missing, wrong or too old');
    }
    const stored = await storeCallback(deps.database.em.fork(), provider, body, deps.keyring);
    if (stored.problem) throw new Refusal(stored.problem);
    if (stored.outcome === 'received') {
      // Also for a repeat of one that is not handled yet: its first message may have been lost with a process.
      const operationId = deps.operationIds.issue(applyCallbackCommand.type);
      const context = { ...c.get('context'), actor: SYSTEM, correlationId: operationId };
      const command = { callback_id: stored.id };
      await deps.commands.send(applyCallbackCommand, command, context, { operationId, waitMs: 0 });
    }
    return ok(c, { event_id: stored.eventId, duplicate: stored.duplicate });
  });
  return router;
}
