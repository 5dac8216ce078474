import type { Config } from '../../config.ts';
import type { Database } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { PasswordHasher } from '../users/password.ts';
import { AccessTokens } from './access-token.ts';
import { type Authenticate, createAuthenticate } from './authenticate.ts';
import { SigningKeys } from './signing-keys.ts';

/** What a process needs to know who somebody is. */
export interface Identity {
  passwords: PasswordHasher;
  signingKeys: SigningKeys;
  accessTokens: AccessTokens;
  authenticate: Authenticate;
}

/** One per process: password slots, signing keys and the memory of verified tokens are shared by all its requests. */
export function createIdentity(deps: {
  database: Database;
  keyring: Keyring;
  config: Pick<Config, 'argon2' | 'jwt' | 'secondFactorRequired'>;
}): Identity {
  const signingKeys = new SigningKeys(deps.database, deps.keyring);
  const accessTokens = new AccessTokens(signingKeys, deps.config.jwt);
  return {
    passwords: new PasswordHasher(deps.config.argon2),
    signingKeys,
    accessTokens,
    authenticate: createAuthenticate({
      database: deps.database,
      accessTokens,
      secondFactorRequired: deps.config.secondFactorRequired,
    }),
  };
}
