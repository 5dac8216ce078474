import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { documentRoutes } from '../../src/api/openapi.ts';
import { parcelApp } from './shell.ts';

const { app } = parcelApp();
documentRoutes(app, {
  version: '1.2.3',
  publicUrl: 'https://waybill.example',
  events: [
    {
      type: 'user.registered',
      description: 'A user has registered',
      schema: { type: 'object', required: ['user_id'], properties: { user_id: { type: 'string' } } },
      example: { user_id: 'u1' },
    },
    { type: 'kyc.approved', description: 'An identity was checked', schema: { type: 'object' } },
  ],
});

interface Operation {
  operationId: string;
  responses: Record<string, { content?: Record<string, { example?: unknown }> }>;
}
interface OpenApi {
  openapi: string;
  info: { version: string };
  servers: unknown;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, unknown>; securitySchemes: unknown };
  webhooks: Record<
    string,
    { post: { operationId: string; parameters: { name: string }[]; requestBody: { content: Record<string, unknown> } } }
  >;
}
const fetched = async () => (await (await app.request('/openapi.json')).json()) as OpenApi;

describe('/openapi.json', () => {
  it('describes every route under its full path', async () => {
    const document = await fetched();
    expect(document).toMatchObject({
      openapi: '3.1.0',
      info: { version: '1.2.3' },
      servers: [{ url: 'https://waybill.example' }],
    });
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining(['/api/v1/parcels', '/api/v1/parcels/{id}', '/api/v1/fault/{kind}']),
    );
    expect(document.components.securitySchemes).toMatchObject({ bearerAuth: { type: 'http', scheme: 'bearer' } });
  });

  it('names every operation once and gives every error an example', async () => {
    const { paths, webhooks } = await fetched();
    const operations = Object.values(paths).flatMap((item) => Object.values(item));
    const names = [...operations, ...Object.values(webhooks).map((item) => item.post)].map(
      (operation) => operation.operationId,
    );
    expect(names).toEqual(expect.arrayContaining(['getParcelsById', 'postParcels', 'onUserRegistered']));
    expect(new Set(names).size).toBe(names.length);
    for (const { responses } of operations) {
      for (const [status, { content }] of Object.entries(responses)) {
        if (status >= '400')
          expect(content?.['application/json']?.example).toMatchObject({
            status: 'error',
            error: { code: expect.any(String) },
            meta: {},
          });
      }
    }
  });

  it('refers only to components that are there', async () => {
    const document = await fetched();
    const refs = JSON.stringify(document).match(/#\/components\/schemas\/[^"]+/g) ?? [];
    expect(refs.length).toBeGreaterThan(5);
    for (const ref of refs) expect(document.components.schemas).toHaveProperty([ref.split('/').pop() ?? '']);
  });

  it('has one webhook per event type', async () => {
    const { webhooks } = await fetched();
    expect(Object.keys(webhooks)).toEqual(['user.registered', 'kyc.approved']);
    expect(webhooks['user.registered']?.post.parameters.map((parameter) => parameter.name)).toEqual([
      'webhook-id',
      'webhook-timestamp',
      'webhook-signature',
    ]);
    expect(webhooks['user.registered']?.post.requestBody.content['application/json']).toMatchObject({
      schema: { properties: { type: { const: 'user.registered' }, data: { required: ['user_id'] } } },
      example: { type: 'user.registered', data: { user_id: 'u1' } },
    });
  });

  it('answers 304 to its ETag and HEAD without a body', async () => {
    const etag = (await app.request('/openapi.json')).headers.get('etag') ?? '';
    expect(etag).toMatch(/^W\/"[\w-]{22}"$/);
    const again = await app.request('/openapi.json', { headers: { 'if-none-match': `"other", ${etag}` } });
    expect([again.status, await again.text()]).toEqual([304, '']);
    expect((await app.request('/openapi.json', { headers: { 'if-none-match': '"other"' } })).status).toBe(200);
    const head = await app.request('/openapi.json', { method: 'HEAD' });
    expect([head.status, head.headers.get('etag'), await head.text()]).toEqual([200, etag, '']);
  });

  it('is compressed for those who take it', async () => {
    const coded = async (accept: string) => {
      const response = await app.request('/openapi.json', { headers: { 'accept-encoding': accept } });
      return { coding: response.headers.get('content-encoding'), body: Buffer.from(await response.arrayBuffer()) };
    };
    const plain = await coded('br');
    const zipped = await coded('br, gzip;q=0.5');
    expect([plain.coding, zipped.coding, (await coded('gzip;q=0')).coding]).toEqual([null, 'gzip', null]);
    expect(gunzipSync(zipped.body).equals(plain.body)).toBe(true);
  });
});

describe('/docs', () => {
  it('loads only what this server serves, and nothing inline', async () => {
    const response = await app.request('/docs');
    const page = await response.text();
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(response.headers.get('content-security-policy')).not.toMatch(/unsafe|https?:/);
    expect(page).not.toMatch(/<script(?![^>]*src=)|<style|style=|onload=|https?:\/\//);
    const loads = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] ?? '');
    expect(loads).toEqual(
      expect.arrayContaining(['/docs/swagger-ui.css', '/docs/swagger-ui-bundle.js', '/docs/initializer.js']),
    );
    for (const path of loads) {
      const loaded = await app.request(path);
      const type = loaded.headers.get('content-type') ?? '';
      expect([path, loaded.status]).toEqual([path, 200]);
      expect(type).toMatch(
        path.endsWith('.js')
          ? /^text\/javascript/
          : path.endsWith('.css')
            ? /^text\/css/
            : path.endsWith('.png')
              ? /^image\/png$/
              : /^application\/json$/,
      );
    }
    expect(await (await app.request('/docs/initializer.js')).text()).toContain('validatorUrl: null');
  });

  it('serves nothing else of the package', async () => {
    for (const path of ['/docs/package.json', '/docs/..%2fpackage.json', '/docs/swagger-ui.js', '/docs/index.html'])
      expect((await app.request(path)).status).toBe(404);
  });
});
