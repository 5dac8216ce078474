import type { Config } from '../config.ts';
import { discard, done } from '../domain/messages/outcome.ts';
import { registerUserCommand } from '../domain/users/commands.ts';
import { PasswordHasher } from '../domain/users/password.ts';
import { register } from '../domain/users/registration.ts';
import { defineWorker, exponential, type MessageWorker } from '../queues/worker.ts';
import { type Keyring, SealError } from '../services/keyring.ts';

type RegisterUser = ReturnType<typeof registerUserCommand.schema.parse>;

/** Opens and hashes the password outside of any transaction, then creates the account with its mail and event. */
export function registerUser(deps: { config: Config; keyring: Keyring }): MessageWorker {
  // The pool's concurrency bounds how many hashes wait here; none is turned away, or an accepted command would fail.
  const passwords = new PasswordHasher(deps.config.argon2, { queueLimit: Number.POSITIVE_INFINITY });
  return defineWorker<RegisterUser, { passwordHash: string } | { unusable: string }>({
    name: 'register-user',
    pool: 'registration',
    takes: registerUserCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 30_000,

    async perform({ data }) {
      try {
        return { passwordHash: await passwords.hash(await deps.keyring.open('command', data.password)) };
      } catch (error) {
        if (error instanceof SealError) return { unusable: `the password cannot be opened: ${error.message}` };
        throw error;
      }
    },

    async handle({ data, performed, em, emit }) {
      if ('unusable' in performed) return discard(performed.unusable);
      const { user_id, email, full_name } = data;
      const input = { userId: user_id, email, fullName: full_name, passwordHash: performed.passwordHash };
      const { status, result } = await register({ em, emit }, deps, input);
      return done(result, status);
    },
  });
}
