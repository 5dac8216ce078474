import { sql } from 'kysely';
import { iso } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import type { Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { revokeSessions } from '../sessions/sessions.ts';
import { emailChanged } from './events.ts';
import { type AccountSettings, mailEmailChange, mailEmailInUse, mailNotice } from './mail.ts';
import { type PasswordDeps, reauthenticated } from './reauthentication.ts';
import { spendToken, spendTokens } from './tokens.ts';
import {
  findUser,
  findUserByEmail,
  lockUser,
  type UserResource,
  type UserRow,
  userColumns,
  userResource,
} from './user.ts';

/**
 * Mails a link to the new address that confirms it, and a notice to the present one. Whether another account has the
 * new address shows in nothing that is answered: its owner is mailed instead. Refuses like `reauthenticated`, and
 * VALIDATION_ERROR on `email` when it is the present address.
 */
export async function requestEmailChange(
  deps: PasswordDeps & { config: AccountSettings['config'] },
  context: RequestContext,
  input: { userId: string; sessionId: string; email: string; password: string; code?: string | undefined },
): Promise<{ email: string }> {
  const present = (await findUser(deps.em, input.userId)) ?? refuse('UNAUTHORIZED', 'please sign in');
  if (input.email.toLowerCase() === present.email.toLowerCase()) {
    refuse('VALIDATION_ERROR', 'email is your address already', { field: 'email' });
  }
  const proof = { ...input, field: 'password', action: 'user.email_change' };
  await reauthenticated(
    deps,
    context,
    proof,
    async () => undefined,
    async (unit, user) => {
      await spendTokens(unit.em, user.id, 'change-email');
      const owner = await findUserByEmail(unit.em, input.email);
      if (owner) await mailEmailInUse(unit, deps, owner);
      else await mailEmailChange(unit, deps, user, { to: input.email, sessionId: input.sessionId });
      await mailNotice(unit, deps.keyring, user, 'email-change-requested');
      unit.emit.audit({
        action: 'user.email_change_requested',
        targets: [{ type: 'user', id: user.id }],
        subject: user.id,
        metadata: { new_email: input.email },
      });
    },
  );
  return { email: input.email };
}

/**
 * Makes the address that the token was mailed to the account's. Every session but the one that asked ends, links
 * mailed to the old address stop working, and the old address is told. Refuses VALIDATION_ERROR (field `token`) for a
 * token that is not good, CONFLICT (field `email`) when another account took the address meanwhile.
 */
export async function confirmEmailChange(unit: Unit, keyring: Keyring, token: string): Promise<UserResource> {
  const { userId, email, sessionId } = await spendToken(unit, 'change-email', token);
  const before = await lockUser(unit.em, userId);
  if (!email || !before.is_active) refuse('CONFLICT', 'this account cannot be changed now');
  const user = await storeEmail(unit, userId, email);
  unit.emit.event(
    emailChanged,
    { user_id: user.id, email: user.email, changed_at: iso(user.updated_at) },
    { subject: user.id, sequence: user.version },
  );
  unit.emit.audit({
    action: 'user.email_changed',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { previous_email: before.email, email: user.email },
  });
  await spendTokens(unit.em, user.id);
  await revokeSessions(unit, user.id, 'email_changed', sessionId ? { except: sessionId } : {});
  await mailNotice(unit, keyring, before, 'email-changed');
  return userResource(user);
}

async function storeEmail(unit: Unit, userId: string, email: string): Promise<UserRow> {
  try {
    const { rows } = await sql<UserRow>`
      update users set email = ${email}, is_verified = true, version = version + 1, updated_at = now()
      where id = ${userId} returning ${userColumns}`.execute(unit.em.getKysely());
    return rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
  } catch (error) {
    return refuseTaken(error);
  }
}

/** Nothing but the index can tell whether an address is free; the refusal takes the whole transaction back. */
export function refuseTaken(error: unknown): never {
  if ((error as { code?: string; cause?: { code?: string } }).code === '23505')
    return refuse('CONFLICT', 'this e-mail address is in use', { field: 'email' });
  throw error;
}
