import { sql } from 'kysely';
import type { Database } from './database.ts';
import { type Keyring, SealError } from './keyring.ts';

/** The database was filled under another SECRETS_KEY than the one given now. */
export class SecretsMismatch extends Error {
  override name = 'SecretsMismatch';
  constructor() {
    super(
      [
        'SECRETS_KEY does not fit this database: what is sealed in it was sealed under another key. Ways out:',
        '  - start with the SECRETS_KEY that this database was created with (in development it is kept in .waybill/secrets_key);',
        '  - to change keys, give the new one as SECRETS_KEY and the old one as SECRETS_KEY_PREVIOUS;',
        '  - or point DATABASE_URL at another, empty database.',
      ].join('\n'),
    );
  }
}

/**
 * Keeps a check value of SECRETS_KEY in the database and compares it at every start: a wrong key would otherwise show
 * only when the first sealed value cannot be opened. A check under SECRETS_KEY_PREVIOUS is renewed. Throws `SecretsMismatch`.
 */
export async function checkSecretsKey(database: Database, keyring: Keyring): Promise<void> {
  const db = database.em.fork().getKysely();
  const check = await keyring.seal('check', 'waybill');
  const { rows } = await sql<{ secrets_check: string }>`
    insert into installation (secrets_check) values (${check}) on conflict (id) do update set id = true returning secrets_check`.execute(
    db,
  );
  try {
    await keyring.open('check', rows[0]?.secrets_check ?? '');
  } catch (error) {
    if (error instanceof SealError) throw new SecretsMismatch();
    throw error;
  }
  await sql`update installation set secrets_check = ${check} where secrets_check <> ${check}`.execute(db);
}
