import { z } from 'zod';
import { uuid } from '../ids.ts';
import { event } from '../messages/contracts.ts';
import { ROLES } from './entities.ts';

/** `subject` of each is the user's id, `sequence` the user's version. */
const time = z.iso.datetime();

export const userCreated = event(
  'user.created',
  z.object({ user_id: uuid, email: z.string(), full_name: z.string(), created_at: time }),
);

export const userVerified = event('user.verified', z.object({ user_id: uuid, email: z.string(), verified_at: time }));

export const userUpdated = event(
  'user.updated',
  z.object({
    user_id: uuid,
    full_name: z.string(),
    avatar_url: z.string().nullable(),
    role: z.enum(ROLES),
    changed: z.array(z.string()),
    updated_at: time,
  }),
);

export const userDisabled = event(
  'user.disabled',
  z.object({ user_id: uuid, disabled_at: time, until: time.optional() }),
);
export const userEnabled = event('user.enabled', z.object({ user_id: uuid, enabled_at: time }));
export const userDeleted = event('user.deleted', z.object({ user_id: uuid, deleted_at: time }));

/** A deleted account came back within its grace. */
export const userRestored = event('user.restored', z.object({ user_id: uuid, restored_at: time }));
/** Nothing personal of the account is left. */
export const userErased = event('user.erased', z.object({ user_id: uuid, erased_at: time }));

export const emailChanged = event(
  'user.email_changed',
  z.object({ user_id: uuid, email: z.string(), changed_at: time }),
);

export const passwordChanged = event(
  'user.password_changed',
  z.object({ user_id: uuid, how: z.enum(['reset', 'change']), changed_at: time }),
);

export const USER_EVENTS = [
  userCreated,
  userVerified,
  userUpdated,
  userDisabled,
  userEnabled,
  userDeleted,
  userRestored,
  userErased,
  emailChanged,
  passwordChanged,
] as const;
