import { z } from 'zod';
import { uuid } from '../ids.ts';
import { command } from '../messages/contracts.ts';

/** `password` is sealed (JWE, purpose `command`, 24 h): it never lies in a broker in clear. */
export const registerUserCommand = command(
  'user.register',
  z.object({
    user_id: uuid,
    email: z.string(),
    password: z.string(),
    full_name: z.string(),
    terms_accepted: z.literal(true),
  }),
);

export const resendVerificationCommand = command('user.resend-verification', z.object({ email: z.string() }));
export const forgotPasswordCommand = command('user.forgot-password', z.object({ email: z.string() }));

/** Seconds for which a password in a command can be opened. */
export const SEALED_PASSWORD_SECONDS = 86_400;
