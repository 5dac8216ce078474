import { recordDeadLetter } from '../domain/dead-letters/dead-letters.ts';
import { isUuid, timeOfId } from '../domain/ids.ts';
import { envelopeSchema } from '../domain/messages/envelope.ts';
import { failDeadOperation } from '../domain/operations/operations.ts';
import { type Database, isTransient } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause } from '../services/service.ts';
import type { Incoming } from './consumer.ts';
import { attemptsBefore, HEADERS, textHeader } from './incoming.ts';
import { letterId } from './letter-id.ts';

/** Takes the dead queue into the `dead_letters` table; a dead command's operation has failed. */
export function buryInto(deps: {
  database: Database;
  notify: (replyTo: string, operationId: string) => void;
  log: Logger;
}): (message: Incoming) => Promise<void> {
  return async (message) => {
    const letter = letterOf(message);
    for (let tries = 0; ; tries += 1) {
      try {
        await deps.database.em.fork().transactional(async (em) => {
          await recordDeadLetter(em, letter);
          if (letter.command) {
            const now = new Date();
            await failDeadOperation(
              em,
              { ...letter.command, createdAt: new Date(timeOfId(letter.command.id)), startedAt: now },
              {
                code: 'INTERNAL_ERROR',
                message: letter.verdict ?? 'The request could not be handled and waits in the dead letters.',
                details: { dead_letter_id: letter.id },
              },
              letter.attempts,
            );
          }
        });
        break;
      } catch (error) {
        if (!isTransient(error)) throw error;
        await pause(backoffMs(tries, 200, 5000));
      }
    }
    const replyTo = textHeader(message, HEADERS.replyTo, 128);
    if (replyTo && letter.command) deps.notify(replyTo, letter.command.id);
    deps.log.warn(
      { dead_letter: letter.id, queue: letter.queue, reason: letter.reason, operation_id: letter.correlationId },
      'a message is in the dead letters',
    );
  };
}

/** PostgreSQL's text holds no NUL. */
const clean = (text: string): string => text.replaceAll('\u0000', '\\0').toWellFormed();

function letterOf(message: Incoming) {
  let parsed: ReturnType<typeof envelopeSchema.safeParse> | undefined;
  try {
    parsed = envelopeSchema.safeParse(JSON.parse(message.body.toString('utf8')));
  } catch {
    parsed = undefined;
  }
  const envelope = parsed?.success ? parsed.data : undefined;
  const death = firstDeath(message);
  const queue = textHeader(message, HEADERS.queue, 200) ?? death?.queue ?? 'unknown';
  const given = textHeader(message, HEADERS.letter, 64);
  const isCommand = envelope !== undefined && /\.(registration|kyc)\.v\d+$/.test(queue) && isUuid(envelope.id);
  return {
    // Without a given id (the broker buried it) the content decides, so that a second hand-out is the same letter.
    id: given && isUuid(given) ? given : letterId(message, queue, attemptsBefore(message)),
    queue: clean(queue),
    worker: textHeader(message, HEADERS.worker, 100) ?? null,
    messageType: clean(envelope?.type ?? message.type).slice(0, 200) || null,
    messageId: clean(message.messageId).slice(0, 200) || null,
    correlationId: envelope?.correlationid ? clean(envelope.correlationid) : null,
    reason: clean(
      textHeader(message, HEADERS.reason, 2000) ??
        (death ? `the broker gave up: ${death.reason}` : 'no reason was given'),
    ),
    verdict: cleaned(textHeader(message, HEADERS.verdict)),
    attempts: attemptsBefore(message),
    firstError: cleaned(textHeader(message, HEADERS.firstError)),
    lastError: cleaned(textHeader(message, HEADERS.lastError)),
    body: message.body,
    headers: headersAsText(message),
    command: isCommand
      ? {
          id: envelope.id,
          type: clean(envelope.type),
          caller: clean(envelope.actor ?? 'system'),
          requestId: envelope.requestid ? clean(envelope.requestid) : null,
        }
      : undefined,
  };
}

const cleaned = (text: string | undefined): string | null => (text === undefined ? null : clean(text));

/** The broker's own record of why a message was dead-lettered (RabbitMQ docs, "Dead Letter Exchanges", x-death). */
function firstDeath(message: Incoming): { queue: string; reason: string } | undefined {
  const deaths = message.headers['x-death'];
  const death = Array.isArray(deaths) ? (deaths[0] as { queue?: unknown; reason?: unknown } | undefined) : undefined;
  return death ? { queue: String(death.queue), reason: String(death.reason) } : undefined;
}

/** Headers as JSON that PostgreSQL takes, without the broker's own. */
function headersAsText(message: Incoming): Record<string, unknown> {
  const entries = Object.entries(message.headers).filter(
    ([name]) => !name.startsWith('x-death') && !name.startsWith('x-first-death') && !name.startsWith('x-last-death'),
  );
  const plain = entries
    .slice(0, 50)
    .map(([name, value]) => [
      clean(name),
      typeof value === 'number' || typeof value === 'boolean' ? value : clean(String(value)).slice(0, 2000),
    ]);
  return Object.fromEntries(plain);
}
