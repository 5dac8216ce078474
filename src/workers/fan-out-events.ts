import { z } from 'zod';
import { findEventType } from '../domain/events/catalogue.ts';
import { EVENT_ID } from '../domain/events/publication.ts';
import type { EventTypeDirectory } from '../domain/events/type-directory.ts';
import { newId } from '../domain/ids.ts';
import type { Envelope } from '../domain/messages/envelope.ts';
import type { Messaging } from '../queues/messaging.ts';
import { defineBatchWorker } from '../queues/worker.ts';
import type { Database } from '../services/database.ts';
import type { EndpointDirectory } from '../webhooks/directory.ts';
import { fanOut } from '../webhooks/fanout.ts';

/** Why an envelope is no event that may be sent on; `undefined` when it is one. */
function fault(
  envelope: Envelope,
  eventTypes: Pick<EventTypeDirectory, 'find'>,
): string | undefined | Promise<string | undefined> {
  // A signature covers `id.timestamp.body`: no dot in an id.
  if (!EVENT_ID.test(envelope.id)) return 'not an event: id: must be 1–64 of A-Z, a-z, 0-9, _ and -';
  const builtIn = findEventType(envelope.type);
  if (builtIn) {
    const checked = builtIn.schema.safeParse(envelope.data);
    const [issue] = checked.error?.issues ?? [];
    return issue && `not a ${envelope.type}: ${issue.path.join('.') || '(whole)'}: ${issue.message}`;
  }
  // A tenant's own types were checked when they were accepted; here it is enough that there is such a type. While
  // PostgreSQL cannot be asked nothing is refused: the batch waits for it anyway.
  return eventTypes.find(envelope.tenant ?? 'default', [envelope.type]).then(
    (types) => (types(envelope.type) ? undefined : `there is no event type "${envelope.type}"`),
    () => undefined,
  );
}

/** Events become event rows and one delivery per matching endpoint. */
export const fanOutEvents = (deps: {
  database: Database;
  messaging: Messaging;
  directory: EndpointDirectory;
  eventTypes: Pick<EventTypeDirectory, 'find'>;
}) =>
  defineBatchWorker({
    name: 'fan-out-events',
    pool: 'fanout',
    schema: z.unknown(),
    // Anyone may publish to the events exchange.
    refuses: (envelope) => fault(envelope, deps.eventTypes),
    // While the chunks of one batch wait for their confirms, the rows of the next are written.
    batch: { size: 500, waitMs: 10, parallel: 2 },
    ordered: true,
    timeoutMs: 60_000,
    handle: (items) =>
      fanOut(items, {
        database: deps.database,
        directory: deps.directory,
        setAlarms: (alarms) => deps.messaging.alarms.set(alarms),
        publish: (chunk) =>
          deps.messaging.publisher.publish({
            exchange: deps.messaging.topology.deliveries,
            routingKey: '',
            body: Buffer.from(JSON.stringify(chunk)),
            messageId: newId(),
            type: 'webhook.chunk',
          }),
      }),
  });
