import { z } from '@hono/zod-openapi';
import {
  type EventInput,
  type Publication,
  type Publishing,
  preparePublication,
} from '../domain/events/publication.ts';
import { CHECK_MS } from '../domain/events/schema-check.ts';
import type { TypeLookup } from '../domain/events/type-directory.ts';
import { type Problem, Refusal } from '../domain/problem.ts';
import { refusalOf } from './router.ts';

/** Told of one event, however much is wrong with it: a batch of 100 has 500 at most. */
const FAULTS_PER_EVENT = 5;

/** One thing that is wrong with one event of a batch. */
export interface EventFault {
  /** Of the event, from 0. */
  index: number;
  /** In the path notation of the body: `events[3].data.amount`. */
  field: string;
  message: string;
}

/**
 * Checks a batch, all or nothing. Throws one `Refusal` that names every bad event: its `details` are `EventFault`s by
 * index. PAYLOAD_TOO_LARGE when the events are only too large, else VALIDATION_ERROR.
 */
export async function prepareBatch(
  items: readonly unknown[],
  who: Publishing,
  schema: z.ZodType<EventInput>,
  find: (names: readonly string[]) => Promise<TypeLookup>,
): Promise<Publication[]> {
  const parsed = items.map((item) => schema.safeParse(item));
  const types = await find(parsed.flatMap(({ data }) => (data ? [data.type] : [])));
  const budget = { ms: CHECK_MS };
  const codes = new Set<Problem['code']>();
  const faults: EventFault[] = [];
  const publications = parsed.flatMap((item, index) => {
    try {
      if (!item.success) throw item.error;
      return [preparePublication(item.data, who, types, { index, budget })];
    } catch (error) {
      const { code, found } = faultsOf(error, index);
      codes.add(code);
      faults.push(...found);
      return [];
    }
  });
  const [first] = faults;
  if (!first) return publications;
  const code = codes.size === 1 && codes.has('PAYLOAD_TOO_LARGE') ? 'PAYLOAD_TOO_LARGE' : 'VALIDATION_ERROR';
  throw new Refusal({ code, message: first.message, field: first.field, details: faults });
}

function faultsOf(error: unknown, index: number): { code: Problem['code']; found: EventFault[] } {
  const at = `events[${index}]`;
  if (error instanceof Refusal) {
    const { code, message, field } = error.problem;
    return { code, found: [{ index, field: field ? `${at}.${field}` : at, message: `${at}.${message}` }] };
  }
  if (!(error instanceof z.ZodError)) throw error;
  const issues = error.issues.map((issue) => ({ ...issue, path: ['events', index, ...issue.path] }));
  const { code, message, field = at, details = [{ field, message }] } = refusalOf(new z.ZodError(issues)).problem;
  const found = (details as Omit<EventFault, 'index'>[]).slice(0, FAULTS_PER_EVENT);
  return { code, found: found.map((fault) => ({ index, field: fault.field, message: fault.message })) };
}
