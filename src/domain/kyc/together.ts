import type { EntityManager } from '../../services/database.ts';
import type { Emit, Unit } from '../messages/emit.ts';
import { Refusal, refuse } from '../problem.ts';
import { type AttemptView, attemptView, lockStandings, type Standing } from './attempts.ts';
import type { Case, Draft } from './save.ts';
import { save } from './save.ts';

/** What one user asks for: a draft made of where that user stands, or a `Refusal` thrown. */
export interface KycRequest {
  userId: string;
  emit: Emit;
  draft: (standing: Standing) => Draft;
}

/**
 * Answers requests of different users in three statements, however many they are: all is locked and read, then decided
 * in memory, then written. One that is refused has written nothing and keeps nobody else from an answer; what it emitted
 * is the caller's to take back. `undefined` is the answer to a user who does not exist or is locked: nobody waits.
 */
export async function requestTogether(
  em: EntityManager,
  requests: readonly KycRequest[],
): Promise<(AttemptView | Refusal | undefined)[]> {
  const ids = requests.map(({ userId }) => userId);
  return answer(em, requests, await lockStandings(em, ids, { wait: false }));
}

/** The same for one request, which waits for its user. Throws what it is refused with; NOT_FOUND without the user. */
export async function requestAlone(unit: Unit, request: Omit<KycRequest, 'emit'>): Promise<AttemptView> {
  const standings = await lockStandings(unit.em, [request.userId], { wait: true });
  const [view] = await answer(unit.em, [{ ...request, emit: unit.emit }], standings);
  if (view instanceof Refusal) throw view;
  return view ?? refuse('NOT_FOUND', 'there is no such user');
}

async function answer(
  em: EntityManager,
  requests: readonly KycRequest[],
  standings: Map<string, Standing>,
): Promise<(AttemptView | Refusal | undefined)[]> {
  const drafted = requests.map(({ userId, draft }) => {
    const standing = standings.get(userId.toLowerCase());
    try {
      return standing && draft(standing);
    } catch (error) {
      if (error instanceof Refusal) return error;
      throw error;
    }
  });
  const drafts = drafted.filter((draft): draft is Draft => draft !== undefined && !(draft instanceof Refusal));
  const cases = new Map((await save(em, drafts)).map((it, i) => [drafts[i], it]));
  return drafted.map((draft) => {
    if (draft === undefined || draft instanceof Refusal) return draft;
    const { subject, attempt } = cases.get(draft) as Case;
    return attemptView(attempt, subject.kyc_status);
  });
}
