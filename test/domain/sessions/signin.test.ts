import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { signIn } from '../../../src/domain/sessions/signin.ts';
import { PasswordHasher } from '../../../src/domain/users/password.ts';
import { anonymously, openStage, PASSWORD, query, type Stage } from '../users/stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

/** Does something between the check of the password and the opening of the session. */
class Interrupted extends PasswordHasher {
  readonly #then: () => Promise<unknown>;
  constructor(then: () => Promise<unknown>) {
    super({ memoryKib: 1024, time: 1, parallelism: 1 });
    this.#then = then;
  }
  override async verify(hashed: string | null, password: string): Promise<boolean> {
    const right = await super.verify(hashed, password);
    await this.#then();
    return right;
  }
}

const OTHER = await new PasswordHasher({ memoryKib: 1024, time: 1, parallelism: 1 }).hash('a louder harbour at dusk');

describe('while the password is checked', () => {
  test.each([
    ['it is changed', sql`password_hash = ${OTHER}`, 'UNAUTHORIZED'],
    ['the account is deleted', sql`deleted_at = now()`, 'UNAUTHORIZED'],
    ['the account is disabled', sql`is_active = false`, 'FORBIDDEN'],
  ])('%s: no session is opened', async (_, change, code) => {
    const { id, email } = await stage.user();
    const { keyring, messaging } = stage.harness;
    const passwords = new Interrupted(() => query(stage, sql`update users set ${change} where id = ${id}`));
    const deps = { em: stage.em(), transact: messaging.transact, keyring, ...stage.identity, passwords };
    await expect(signIn(deps, anonymously(), { email, password: PASSWORD })).rejects.toMatchObject({
      problem: { code },
    });
    expect(await query(stage, sql`select 1 from sessions where user_id = ${id}`)).toEqual([]);
  });
});

test('where from and with what is kept with the session', async () => {
  const { id, email } = await stage.user();
  const { keyring, messaging } = stage.harness;
  const deps = { em: stage.em(), transact: messaging.transact, keyring, ...stage.identity };
  const context = anonymously({ ip: '192.0.2.77', userAgent: `${'x'.repeat(600)}` });
  await signIn(deps, context, { email, password: PASSWORD });
  const [row] = await query(
    stage,
    sql<{ ip: string; user_agent: string }>`select ip, user_agent from sessions where user_id = ${id}`,
  );
  expect(row).toEqual({ ip: '192.0.2.77', user_agent: 'x'.repeat(512) });
});
