import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { html } from 'hono/html';
import { type Asset, serveAsset } from './pages/assets.ts';
import type { ApiRouter } from './router.ts';

/** An event that subscribers may receive, as the `webhooks` section shows it. */
export interface DocumentedEvent {
  /** `user.registered`. */
  type: string;
  description: string;
  /** JSON Schema of `data`. */
  schema: Record<string, unknown>;
  /** An example of `data`. */
  example?: unknown;
}

export interface DocumentOptions {
  version: string;
  publicUrl: string;
  events: DocumentedEvent[];
}

type Document = ReturnType<ApiRouter['getOpenAPI31Document']>;

const TAGS: [string, string][] = [
  ['Accounts', 'Registration, sign-in, sessions and the own account.'],
  ['Operations', 'What became of an accepted request, and every hop it caused.'],
  ['Webhooks', 'Endpoints, deliveries and the events that are sent.'],
  ['KYC', 'Identity checks.'],
  ['Audit', 'The sealed log of who did what.'],
  ['Administration', 'For administrators and operators.'],
  ['Operating', 'Health, readiness and metrics; these answers have no envelope.'],
];

const DESCRIPTION = `Waybill takes a request, hands it to a worker and gives you the result or a number to follow it by.

Answers are \`{"status":"success","data":…,"meta":{…}}\` or \`{"status":"error","error":{"code","message","field"?},"meta":{…}}\`.
Routes that hand work to a worker wait a few seconds for its result; \`Prefer: respond-async\` answers 202 at once, and
\`Idempotency-Key\` makes a repeat safe. Times are RFC 3339 in UTC, ids are UUIDv7.`;

/** The OpenAPI 3.1 document of everything mounted on `app`, with one `webhooks` entry per event type. */
export function openApiDocument(app: ApiRouter, options: DocumentOptions): Document {
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'Waybill',
      version: options.version,
      description: DESCRIPTION,
      license: { name: 'MIT', url: 'https://opensource.org/license/mit' },
    },
    servers: [{ url: options.publicUrl }],
  });
  const operations = Object.entries(document.paths ?? {}).flatMap(([path, item]) =>
    METHODS.flatMap((method) => {
      const operation = item[method];
      return operation ? [{ path, method, operation }] : [];
    }),
  );
  for (const { path, method, operation } of operations) operation.operationId ??= nameOf(method, path);
  const used = new Set(operations.flatMap(({ operation }) => operation.tags ?? []));
  const known = TAGS.filter(([name]) => used.has(name) || name === 'Webhooks').map(([name, description]) => ({
    name,
    description,
  }));
  const other = [...used].filter((name) => !TAGS.some(([tag]) => tag === name)).map((name) => ({ name }));
  return {
    ...document,
    tags: [...known, ...other],
    components: {
      ...document.components,
      securitySchemes: {
        ...document.components?.securitySchemes,
        bearerAuth: {
          type: 'http',
          scheme: 'bearer',
          bearerFormat: 'JWT',
          description:
            'The access_token of `POST /api/v1/auth/login`, or an API key (`wb_…`) of `POST /api/v1/api-keys`.',
        },
      },
    },
    webhooks: Object.fromEntries(options.events.map((event) => [event.type, webhook(event)])),
  };
}

const METHODS = ['get', 'post', 'put', 'patch', 'delete'] as const;

/** `get`, `/api/v1/users/{id}` → `getUsersById`. */
function nameOf(method: string, path: string): string {
  const words = path
    .replace(/^\/api\/v1/, '')
    .replace(/\{(\w+)\}/g, 'by-$1')
    .split(/[^A-Za-z0-9]+/)
    .filter(Boolean);
  return method + words.map((word) => word[0]?.toUpperCase() + word.slice(1)).join('');
}

const header = (name: string, description: string, example: string) => ({
  name,
  in: 'header' as const,
  required: true,
  description,
  schema: { type: 'string' as const },
  example,
});

/** What a subscriber gets (Standard Webhooks 1.0.0). */
function webhook(event: DocumentedEvent) {
  const timestamp = '2026-11-20T10:15:30.000Z';
  return {
    post: {
      operationId: `on${event.type
        .split(/[^A-Za-z0-9]+/)
        .map((word) => (word[0] ?? '').toUpperCase() + word.slice(1))
        .join('')}`,
      tags: ['Webhooks'],
      summary: event.description,
      parameters: [
        header('webhook-id', 'The event id: the same on every retry.', '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01'),
        header('webhook-timestamp', 'Seconds since the epoch, of this attempt.', '1795169730'),
        header(
          'webhook-signature',
          'One or more signatures, space separated, over `id.timestamp.body`.',
          'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
        ),
      ],
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: {
              type: 'object' as const,
              required: ['type', 'timestamp', 'data'],
              properties: {
                type: { type: 'string' as const, const: event.type },
                timestamp: { type: 'string' as const, format: 'date-time' },
                data: event.schema,
              },
            },
            ...(event.example === undefined ? {} : { example: { type: event.type, timestamp, data: event.example } }),
          },
        },
      },
      responses: {
        '2XX': { description: 'Received; the body is not looked at.' },
        '410': { description: 'Not wanted any more: the endpoint is disabled.' },
        default: { description: 'Tried again later.' },
      },
    },
  };
}

/** The page tries requests on the server that it came from, whatever public address the document names. */
const INITIALIZER = `window.addEventListener('load', async () => {
  const spec = await (await fetch('/openapi.json')).json();
  window.ui = SwaggerUIBundle({
    spec: { ...spec, servers: [{ url: window.location.origin }] },
    dom_id: '#swagger-ui',
    deepLinking: true,
    validatorUrl: null,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    presets: [SwaggerUIBundle.presets.apis],
    layout: 'BaseLayout',
  });
});
`;

const STYLE = `html { box-sizing: border-box; overflow-y: scroll; }
*, *::before, *::after { box-sizing: inherit; }
body { margin: 0; background: #fff; }
`;

const page = () =>
  String(html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Waybill API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="stylesheet" href="/docs/page.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>The API is described in <a href="/openapi.json">openapi.json</a>; this page needs JavaScript.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/initializer.js"></script>
</body>
</html>
`);

/**
 * Adds `/openapi.json` and `/docs` to a finished `app`. The page loads nothing from outside: what Swagger UI needs is
 * served from its installed package, its initializer is a file of ours since the policy allows no inline script.
 */
export function documentRoutes(app: ApiRouter, options: DocumentOptions): void {
  const directory = join(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'), '..');
  const packaged = (name: string, contentType: string): Asset => ({
    contentType,
    maxAge: 3600,
    load: async () => Uint8Array.from(await readFile(join(directory, name))),
  });
  serveAsset(app, '/openapi.json', {
    contentType: 'application/json',
    load: () => JSON.stringify(openApiDocument(app, options)),
  });
  serveAsset(app, '/docs', { contentType: 'text/html; charset=utf-8', load: page });
  serveAsset(app, '/docs/initializer.js', { contentType: 'text/javascript; charset=utf-8', load: () => INITIALIZER });
  serveAsset(app, '/docs/page.css', { contentType: 'text/css; charset=utf-8', load: () => STYLE });
  serveAsset(app, '/docs/swagger-ui.css', packaged('swagger-ui.css', 'text/css; charset=utf-8'));
  serveAsset(app, '/docs/swagger-ui-bundle.js', packaged('swagger-ui-bundle.js', 'text/javascript; charset=utf-8'));
  serveAsset(app, '/docs/favicon-32x32.png', packaged('favicon-32x32.png', 'image/png'));
}
