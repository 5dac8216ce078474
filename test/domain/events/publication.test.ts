import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import {
  EVENT_ID,
  type EventInput,
  eventIdOfKey,
  MAX_DATA_BYTES,
  preparePublication,
} from '../../../src/domain/events/publication.ts';
import { isUuid } from '../../../src/domain/ids.ts';
import { envelope } from '../../../src/domain/messages/contracts.ts';
import { ANONYMOUS, envelopeSchema } from '../../../src/domain/messages/envelope.ts';
import { Refusal } from '../../../src/domain/problem.ts';

const WHO = { tenant: 'default', caller: 'user:1' };
const payment = (over: Record<string, unknown> = {}): EventInput => ({
  type: 'payment.succeeded',
  data: { payment_id: 'p-1', amount: 5, currency: 'EUR', ...over },
});

function issuesOf(work: () => unknown): [string, string][] {
  try {
    work();
  } catch (error) {
    if (error instanceof z.ZodError) return error.issues.map((issue) => [issue.path.join('.'), issue.message]);
    throw error;
  }
  return [];
}

describe('the id of an event', () => {
  it('is the one given, or made', () => {
    expect(preparePublication({ ...payment(), id: 'order-1' }, WHO).options.id).toBe('order-1');
    expect(isUuid(preparePublication(payment(), WHO).options.id)).toBe(true);
  });

  it('comes from the idempotency key: the same for a repeat, another for anything else', () => {
    const key = 'checkout-1';
    const idOf = (who: object) => preparePublication(payment(), { ...WHO, key, ...who }).options.id;
    expect(idOf({})).toBe(idOf({}));
    expect(idOf({})).toMatch(/^ik_/);
    expect(idOf({ key: 'k'.repeat(255) })).toMatch(EVENT_ID);
    const others = [{}, { key: 'checkout-2' }, { tenant: 'other' }, { caller: 'user:2' }].map(idOf);
    expect(new Set(others).size).toBe(4);
  });

  it('differs within a batch under one key, and an id that was given wins over the key', () => {
    const ids = [payment(), payment(), { ...payment(), id: 'mine' }].map(
      (input, index) => preparePublication(input, { ...WHO, key: 'k' }, undefined, { index }).options.id,
    );
    expect(ids).toEqual([eventIdOfKey({ ...WHO, key: 'k' }, 0), eventIdOfKey({ ...WHO, key: 'k' }, 1), 'mine']);
    expect(new Set(ids).size).toBe(3);
  });
});

it('travels as an envelope with its tenant, its ordering key and the client as its source', () => {
  const publication = preparePublication({ ...payment({ note: 'x' }), ordering_key: 'cart 7' }, WHO);
  const message = envelope(
    publication.contract,
    publication.data,
    { requestId: 'req', correlationId: 'req', actor: ANONYMOUS },
    publication.options,
  );
  expect(envelopeSchema.parse(message)).toMatchObject({
    source: 'client',
    tenant: 'default',
    orderingkey: 'cart 7',
    type: 'payment.succeeded',
    data: { payment_id: 'p-1', amount: 5, currency: 'EUR', note: 'x' },
    correlationid: 'req',
  });
  expect(message).not.toHaveProperty('subject');
});

describe('what is refused', () => {
  it.each<[EventInput, [string, string | RegExp][]]>([
    [payment({ amount: '5' }), [['data.amount', /number/]]],
    [{ type: 'user.created', data: {} }, [['type', 'is an event of the platform itself']]],
    [{ type: 'nobody.knows', data: {} }, [['type', 'is not in the catalogue of event types']]],
    [
      payment({ currency: '', payment_id: '' }),
      [
        ['data.payment_id', /small/],
        ['data.currency', /small/],
      ],
    ],
    [
      { type: 'subscription.expired', data: { subscription_id: 's', expired_at: 'yesterday' } },
      [['data.expired_at', 'must be an RFC 3339 time']],
    ],
  ])('names every offending field of %j', (input, expected) => {
    const found = issuesOf(() => preparePublication(input, WHO));
    expect(found).toEqual(
      expected.map(([path, message]) => [path, typeof message === 'string' ? message : expect.stringMatching(message)]),
    );
  });

  it.each(['user.created', 'session.revoked', 'kyc.approved', 'webhook.endpoint.disabled'])('forges no %s', (type) => {
    expect(issuesOf(() => preparePublication({ type, data: {} }, WHO))).toEqual([
      ['type', 'is an event of the platform itself'],
    ]);
  });

  it('takes 256 KiB of data and not a byte more', () => {
    const empty = Buffer.byteLength(JSON.stringify(payment({ note: '' }).data));
    const fits = payment({ note: 'é'.repeat((MAX_DATA_BYTES - empty) / 2) });
    const slack = MAX_DATA_BYTES - Buffer.byteLength(JSON.stringify(fits.data));
    fits.data.note += 'x'.repeat(slack);
    expect(preparePublication(fits, WHO).data).toEqual(fits.data);
    fits.data.note += 'x';
    const attempt = () => preparePublication(fits, WHO);
    expect(attempt).toThrow(Refusal);
    try {
      attempt();
    } catch (error) {
      expect((error as Refusal).problem).toMatchObject({ code: 'PAYLOAD_TOO_LARGE', field: 'data' });
    }
  });
});
