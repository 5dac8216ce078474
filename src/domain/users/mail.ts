import { sql } from 'kysely';
import type { Config } from '../../config.ts';
import type { EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { queueEmail } from '../emails/queue.ts';
import type { Unit } from '../messages/emit.ts';
import { INVITATION_SECONDS, issueToken } from './tokens.ts';

/** What use cases need besides their unit. */
export interface AccountSettings {
  config: Pick<Config, 'publicUrl' | 'registrationConflict'>;
  keyring: Keyring;
}

type NoticeTemplate =
  | 'password-changed'
  | 'session-reuse'
  | 'email-in-use'
  | 'email-change-requested'
  | 'email-changed'
  | 'second-factor-on'
  | 'second-factor-off'
  | 'second-factor-reset';

interface Recipient {
  id: string;
  email: string;
  full_name: string;
}

/** Mails that strangers can cause are capped per recipient and template, or any form would be a mail cannon. */
const CAP = 10;
const CAP_MINUTES = 10;

async function isCapped(em: EntityManager, userId: string, template: string): Promise<boolean> {
  return isOver(em, template, sql`user_id = ${userId}`);
}

/** The same for an address that is not the user's own: any user may have mails sent to it. */
async function isRecipientCapped(em: EntityManager, to: string, template: string): Promise<boolean> {
  return isOver(em, template, sql`lower(recipient) = lower(${to})`);
}

async function isOver(em: EntityManager, template: string, whose: ReturnType<typeof sql>): Promise<boolean> {
  const { rows } = await sql<{ count: string }>`
    select count(*) from emails
    where ${whose} and template = ${template} and created_at > now() - make_interval(mins => ${CAP_MINUTES})`.execute(
    em.getKysely(),
  );
  return Number(rows[0]?.count) >= CAP;
}

/** The link's base is configured, never taken from a request (OWASP Forgot Password Cheat Sheet). */
const link = (settings: AccountSettings, path: string, token?: string): string =>
  `${settings.config.publicUrl}/${path}${token ? `?token=${token}` : ''}`;

export async function mailVerification(unit: Unit, settings: AccountSettings, user: Recipient): Promise<void> {
  if (await isCapped(unit.em, user.id, 'verify-email')) return;
  const token = await issueToken(unit.em, user.id, 'verify-email');
  const data = { full_name: user.full_name, link: link(settings, 'verify-email', token) };
  await queueEmail(unit, { userId: user.id, to: user.email, template: 'verify-email', data }, settings.keyring);
}

export async function mailAlreadyRegistered(unit: Unit, settings: AccountSettings, user: Recipient): Promise<void> {
  if (await isCapped(unit.em, user.id, 'already-registered')) return;
  const token = await issueToken(unit.em, user.id, 'reset-password');
  const data = { full_name: user.full_name, link: link(settings, 'reset-password', token) };
  await queueEmail(unit, { userId: user.id, to: user.email, template: 'already-registered', data }, settings.keyring);
}

/** `always`: an administrator asked for it, whom the cap is not there for. */
export async function mailReset(unit: Unit, settings: AccountSettings, user: Recipient, always = false): Promise<void> {
  if (!always && (await isCapped(unit.em, user.id, 'reset-password'))) return;
  const token = await issueToken(unit.em, user.id, 'reset-password');
  const data = { full_name: user.full_name, link: link(settings, 'reset-password', token) };
  await queueEmail(unit, { userId: user.id, to: user.email, template: 'reset-password', data }, settings.keyring);
}

export async function mailInvitation(unit: Unit, settings: AccountSettings, user: Recipient): Promise<void> {
  const token = await issueToken(unit.em, user.id, 'reset-password', { seconds: INVITATION_SECONDS });
  const data = { full_name: user.full_name, link: link(settings, 'reset-password', token) };
  await queueEmail(unit, { userId: user.id, to: user.email, template: 'set-password', data }, settings.keyring);
}

/** To an address that is not the user's yet. */
export async function mailEmailChange(
  unit: Unit,
  settings: AccountSettings,
  user: Recipient,
  change: { to: string; sessionId: string },
): Promise<void> {
  if (await isCapped(unit.em, user.id, 'change-email')) return;
  if (await isRecipientCapped(unit.em, change.to, 'change-email')) return;
  const options = { email: change.to, sessionId: change.sessionId };
  const token = await issueToken(unit.em, user.id, 'change-email', options);
  const data = { full_name: user.full_name, link: link(settings, 'confirm-email', token) };
  await queueEmail(unit, { userId: user.id, to: change.to, template: 'change-email', data }, settings.keyring);
}

/** To the owner of an address that somebody else wants. */
export async function mailEmailInUse(unit: Unit, settings: AccountSettings, owner: Recipient): Promise<void> {
  if (await isCapped(unit.em, owner.id, 'email-in-use')) return;
  await mailNotice(unit, settings.keyring, owner, 'email-in-use');
}

/** Where a sign-in came from, as its client says. */
export async function mailNewSignIn(
  unit: Unit,
  keyring: Keyring,
  user: Recipient,
  client: { ip: string | null; userAgent: string | null },
): Promise<void> {
  const data = {
    full_name: user.full_name,
    ip: client.ip ?? 'an unknown address',
    // Whoever signed in chose it: it brings no address to open into a mail of ours.
    user_agent: client.userAgent?.replace(/\S*(?::\/\/|www\.)\S*/gi, '').slice(0, 200) || 'an unknown program',
    at: `${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC`,
  };
  await queueEmail(unit, { userId: user.id, to: user.email, template: 'new-sign-in', data }, keyring);
}

/** Tells the owner of something that the owner should know of, without a link to click. */
export async function mailNotice(
  unit: Unit,
  keyring: Keyring,
  user: Recipient,
  template: NoticeTemplate,
): Promise<void> {
  await queueEmail(unit, { userId: user.id, to: user.email, template, data: { full_name: user.full_name } }, keyring);
}
