import { Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/app.ts';
import { type HealthDeps, healthRoutes, requestMetrics } from '../../src/api/routes/health.ts';
import { listening, parcelRouter } from './shell.ts';

const up = async () => 'fine';
const down = async () => {
  throw new Error('postgres://user:secret@host refused');
};

function health(checks: HealthDeps['checks']) {
  const registry = new Registry();
  const state = { stopping: false };
  const config = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: 'unused',
    publicUrl: 'http://localhost',
  };
  const app = createApp(
    { config, log: listening().log, observe: requestMetrics(registry) },
    { api: [parcelRouter()], root: [healthRoutes({ checks, state, registry })] },
  );
  const get = async (path: string) => {
    const response = await app.request(path);
    return [response.status, await response.json()];
  };
  return { app, state, get };
}

describe('readiness', () => {
  const all = {
    database: { check: up, needed: true },
    redis: { check: up, needed: false },
    rabbitmq: { check: up, needed: true },
  };

  it('is ready when all answer', async () => {
    const { get } = health(all);
    expect(await get('/readyz')).toEqual([
      200,
      { status: 'ok', checks: { database: 'up', redis: 'up', rabbitmq: 'up' }, down: [] },
    ]);
    expect(await get('/health')).toEqual([
      200,
      { status: 'ok', checks: { database: 'up', redis: 'up', rabbitmq: 'up' }, down: [], uptime_s: expect.any(Number) },
    ]);
  });

  it('names what is down, 503 only when it is needed', async () => {
    expect(await health({ ...all, redis: { check: down, needed: false } }).get('/readyz')).toMatchObject([
      200,
      { status: 'degraded', down: ['redis'] },
    ]);
    expect(await health({ ...all, rabbitmq: { check: down, needed: true } }).get('/readyz')).toEqual([
      503,
      { status: 'down', checks: { database: 'up', redis: 'up', rabbitmq: 'down' }, down: ['rabbitmq'] },
    ]);
  });

  it('does not wait for a check that hangs, nor fall over one that throws at once', async () => {
    const began = performance.now();
    const throws = () => {
      throw new Error('at once');
    };
    const { get } = health({
      database: { check: () => new Promise(() => undefined), needed: true },
      redis: { check: throws, needed: true },
    });
    expect(await get('/readyz')).toMatchObject([503, { down: ['database', 'redis'] }]);
    expect(performance.now() - began).toBeLessThan(1900);
  });

  it('is not ready once it is stopping, while it is still alive', async () => {
    const { get, state } = health(all);
    state.stopping = true;
    expect(await get('/readyz')).toMatchObject([503, { status: 'stopping', down: [] }]);
    expect(await get('/livez')).toEqual([200, { status: 'ok' }]);
  });
});

describe('/metrics', () => {
  it('counts requests by route pattern, not by path', async () => {
    const { app } = health({});
    await app.request('/api/v1/parcels/1');
    await app.request('/api/v1/parcels/2');
    await app.request('/nowhere/at/all');
    const response = await app.request('/metrics');
    const text = await response.text();
    expect(response.headers.get('content-type')).toContain('text/plain; version=0.0.4');
    expect(text).toContain(
      'waybill_http_request_duration_seconds_count{method="GET",route="/api/v1/parcels/:id",status="200"} 2',
    );
    expect(text).toContain('waybill_http_request_duration_seconds_count{method="GET",route="none",status="404"} 1');
    expect(text).not.toContain('/nowhere');
  });
});
