import { expect, it } from 'vitest';
import { documentedEvents, EVENT_TYPES, findEventType, jsonSchemaOf } from '../../../src/domain/events/catalogue.ts';
import * as kyc from '../../../src/domain/kyc/messages.ts';
import { SESSION_EVENTS } from '../../../src/domain/sessions/events.ts';
import { USER_EVENTS } from '../../../src/domain/users/events.ts';

it('has every event that the platform publishes, and the two samples, once', () => {
  const names = EVENT_TYPES.map((entry) => entry.name);
  expect(new Set(names).size).toBe(names.length);
  const kycEvents = Object.values(kyc).filter(
    (value) => typeof value === 'object' && 'kind' in value && value.kind === 'event',
  ) as { type: string }[];
  expect(kycEvents).toHaveLength(8);
  const published = [...USER_EVENTS, ...SESSION_EVENTS, ...kycEvents].map((contract) => contract.type);
  const platform = [...published, 'webhook.endpoint.disabled', 'webhook.delivery.exhausted'];
  const of = (source: string) => EVENT_TYPES.filter((entry) => entry.source === source).map((entry) => entry.name);
  expect(of('platform').toSorted()).toEqual(platform.toSorted());
  expect(of('sample')).toEqual(['payment.succeeded', 'subscription.expired']);
});

it.each(EVENT_TYPES.map((entry) => [entry.name, entry] as const))(
  '%s: its example fits its schema, nothing does not, and the schema is JSON Schema',
  (name, entry) => {
    expect(entry.schema.safeParse(entry.example).success).toBe(true);
    expect(entry.schema.safeParse({}).success).toBe(false);
    expect(jsonSchemaOf(entry)).toMatchObject({ type: 'object', required: expect.any(Array) });
    expect(entry.description).toMatch(/^[A-Z].*\.$/);
    expect(findEventType(name)).toBe(entry);
  },
);

it('knows no other', () => {
  for (const name of ['', 'user', 'user.*', 'payment.failed', '__proto__', 'constructor'])
    expect(findEventType(name)).toBeUndefined();
});

it('documents each with its schema and an example', () => {
  const documented = documentedEvents();
  expect(documented).toHaveLength(EVENT_TYPES.length);
  expect(documented.find((entry) => entry.type === 'payment.succeeded')).toMatchObject({
    description: 'A sample: a payment went through.',
    schema: { required: ['payment_id', 'amount', 'currency'] },
    example: { currency: 'EUR' },
  });
});
