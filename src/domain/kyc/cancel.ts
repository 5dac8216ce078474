import type { Emit, Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import type { AttemptView, Standing } from './attempts.ts';
import { currentOf } from './current.ts';
import { advance, draftOf } from './moves.ts';
import type { Draft } from './save.ts';
import { requestAlone } from './together.ts';

/**
 * The user takes the open attempt back. CONFLICT when none is open, NOT_FOUND when there was never one.
 */
export const cancelKyc = (unit: Unit, { userId }: { userId: string }): Promise<AttemptView> =>
  requestAlone(unit, { userId, draft: (standing) => draftCancellation(unit.emit, standing) });

/** What `cancelKyc` writes. Refuses as it does. */
export function draftCancellation(emit: Emit, { subject, attempts }: Standing): Draft {
  const attempt = currentOf(attempts) ?? refuse('NOT_FOUND', 'there is no identity check');
  return advance(draftOf(emit, { subject, attempt }, attempts), { to: 'cancelled', by: 'user' });
}
