import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { publicKeys } from '../../webhooks/public-keys.ts';
import type { ApiDeps } from '../deps.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses } from '../schemas.ts';

/** As long as an old key signs beside its successor by default, and far below it. */
const CACHE_SECONDS = 60;

const keySchema = z
  .object({
    kid: z.string().openapi({ description: 'Of this key: an endpoint has several while its secret rotates.' }),
    kty: z.literal('OKP'),
    crv: z.literal('Ed25519'),
    x: z.string(),
    use: z.literal('sig'),
    endpoint_id: uuid,
    whpk: z.string().openapi({ description: 'The same key as Standard Webhooks spells it.' }),
  })
  .openapi('WebhookPublicKey');

const route = createRoute({
  method: 'get',
  path: '/.well-known/webhook-keys.json',
  operationId: 'getWebhookKeys',
  tags: ['Webhooks'],
  summary: 'The public keys of v1a signatures',
  description:
    'A JSON Web Key Set (RFC 7517) without an envelope: every key that signs webhooks at this moment, those of before a rotation included, or those of one endpoint. Endpoints that sign with `v1` alone have none.',
  request: { query: z.object({ endpoint_id: uuid.optional() }) },
  responses: {
    200: {
      description: 'The keys, the newest first of each endpoint.',
      content: {
        'application/json': {
          schema: z.object({ keys: z.array(keySchema) }).openapi('WebhookKeySet'),
          example: {
            keys: [
              {
                kid: '019a9f3e-6c1e-7f40-8a2b-3c4d5e6f7081',
                kty: 'OKP',
                crv: 'Ed25519',
                x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo',
                use: 'sig',
                endpoint_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
                whpk: 'whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=',
              },
            ],
          },
        },
      },
    },
    ...errorResponses(400),
  },
});

/** `/.well-known/webhook-keys.json`, for subscribers who verify with Ed25519. */
export function webhookKeyRoutes(deps: Pick<ApiDeps, 'database'>): ApiRouter {
  const router = createRouter();
  router.openapi(route, async (c) => {
    const keys = await publicKeys(deps.database.em.fork(), c.req.valid('query').endpoint_id);
    return c.json({ keys }, 200, { 'Cache-Control': `public, max-age=${CACHE_SECONDS}` }) as never;
  });
  return router;
}
