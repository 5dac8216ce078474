import { errors, jwtVerify, SignJWT } from 'jose';
import type { Config } from '../../config.ts';
import { currentTime } from '../../services/clock.ts';
import { isUuid, newId } from '../ids.ts';
import type { Role } from '../users/entities.ts';
import { SIGNING_ALGORITHM, type SigningKeys } from './signing-keys.ts';

export const ACCESS_TOKEN_SECONDS = 900;
/** RFC 9068, section 2.1. */
const TYPE = 'at+jwt';

/** What a client gets when it signs in or refreshes. */
export interface TokenPair {
  access_token: string;
  refresh_token: string;
  token_type: 'Bearer';
  /** Seconds. */
  expires_in: number;
}

/** What an access token says. `amr`: how its owner signed in (RFC 8176). */
export interface Grant {
  userId: string;
  sessionId: string;
  role: Role;
  amr?: string[];
}

export interface AccessClaims {
  userId: string;
  sessionId: string;
  /** Seconds since the epoch. */
  expiresAt: number;
}

/** Access tokens: JWTs of RFC 9068, signed with Ed25519, good for 15 minutes. */
export class AccessTokens {
  readonly #keys: SigningKeys;
  readonly #jwt: Config['jwt'];

  constructor(keys: SigningKeys, jwt: Config['jwt']) {
    this.#keys = keys;
    this.#jwt = jwt;
  }

  async issue(grant: Grant): Promise<string> {
    const { kid, key } = await this.#keys.current();
    const issuedAt = Math.floor(currentTime() / 1000);
    return new SignJWT({ sid: grant.sessionId, role: grant.role, amr: grant.amr ?? ['pwd'] })
      .setProtectedHeader({ alg: SIGNING_ALGORITHM, typ: TYPE, kid })
      .setIssuer(this.#jwt.issuer)
      .setAudience(this.#jwt.audience)
      .setSubject(grant.userId)
      .setJti(newId())
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + ACCESS_TOKEN_SECONDS)
      .sign(key);
  }

  /** A fresh access token beside a refresh token. */
  async pair(grant: Grant, refreshToken: string): Promise<TokenPair> {
    const accessToken = await this.issue(grant);
    return {
      access_token: accessToken,
      refresh_token: refreshToken,
      token_type: 'Bearer',
      expires_in: ACCESS_TOKEN_SECONDS,
    };
  }

  /**
   * The claims of a token that this platform signed, `undefined` for any other. Follows RFC 8725: algorithm, type,
   * issuer and audience are fixed, the key comes from our own set by `kid`, and `jku` and `jwk` are not looked at.
   */
  async verify(token: string): Promise<AccessClaims | undefined> {
    try {
      const { payload } = await jwtVerify(
        token,
        async ({ kid }) => {
          const key = kid ? await this.#keys.publicKey(kid) : undefined;
          if (!key) throw new errors.JWKSNoMatchingKey();
          return key;
        },
        {
          algorithms: [SIGNING_ALGORITHM],
          typ: TYPE,
          issuer: this.#jwt.issuer,
          audience: this.#jwt.audience,
          currentDate: new Date(currentTime()),
          requiredClaims: ['sub', 'sid', 'exp', 'iat', 'jti'],
        },
      );
      const { sub, sid, exp } = payload;
      if (!sub || !isUuid(sub) || typeof sid !== 'string' || !isUuid(sid) || !exp) return undefined;
      return { userId: sub, sessionId: sid, expiresAt: exp };
    } catch (error) {
      if (error instanceof errors.JOSEError) return undefined;
      throw error;
    }
  }
}
