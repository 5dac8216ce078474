import { createRoute, z } from '@hono/zod-openapi';
import { newId, uuid } from '../../domain/ids.ts';
import type { Identity } from '../../domain/sessions/identity.ts';
import { refreshSession } from '../../domain/sessions/rotation.ts';
import { signIn } from '../../domain/sessions/signin.ts';
import { JWKS_CACHE_SECONDS } from '../../domain/sessions/signing-keys.ts';
import {
  forgotPasswordCommand,
  registerUserCommand,
  resendVerificationCommand,
  SEALED_PASSWORD_SECONDS,
} from '../../domain/users/commands.ts';
import { acceptPassword, refuseSimilar } from '../../domain/users/password.ts';
import { resetPassword } from '../../domain/users/recovery.ts';
import { verifyEmail } from '../../domain/users/registration.ts';
import { pause } from '../../services/service.ts';
import { answerCommand } from '../command.ts';
import type { AuthDeps } from '../deps.ts';
import { rateLimit } from '../middleware/rate-limit.ts';
import { resetPages } from '../pages/reset.ts';
import { verifyPages } from '../pages/verify.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import {
  commandHeaders,
  commandResponses,
  email,
  errorResponses,
  jsonBody,
  password,
  success,
  text,
  timestamp,
} from '../schemas.ts';
import { credentialRoutes, linkToken, oneTimeCode, presentedPassword } from './credentials.ts';
import { sessionRoutes } from './sessions.ts';
import { fullName } from './users.ts';

const ADDRESS = 'ada@example.com';
const USER_ID = '019a9f3e-6b00-7a11-8e22-3f4455667788';
const AT = '2026-11-20T10:15:30.000Z';
const PASSWORD = 'correct horse battery staple';

const addressSchema = z.object({ email: z.string() });

const tokensSchema = z
  .object({
    access_token: z.string(),
    refresh_token: z.string(),
    token_type: z.literal('Bearer'),
    expires_in: z.int().openapi({ description: 'Seconds for which the access token is good.' }),
  })
  .openapi('Tokens');
const TOKENS = {
  access_token: 'eyJhbGciOiJFZDI1NTE5IiwidHlwIjoiYXQrand0In0.eyJzdWIiOiIwMTlhIn0.c2ln',
  refresh_token: 'wbr_mN3o6kYw0l8m2cJt1v5bqg7Xr9dE4sHfUaZ0pTiQ2wA',
  token_type: 'Bearer',
  expires_in: 900,
};

const tags = ['Accounts'];

const routes = {
  register: createRoute({
    method: 'post',
    path: '/auth/register',
    operationId: 'register',
    tags,
    summary: 'Create an account',
    description:
      'Mails a link that verifies the address. Where conflicts are concealed the answer is 202 `{email}`, whether or not the address is taken.',
    middleware: [rateLimit('register')],
    request: {
      headers: commandHeaders,
      body: jsonBody(z.strictObject({ email, password, full_name: fullName, terms_accepted: z.literal(true) }), {
        email: ADDRESS,
        password: PASSWORD,
        full_name: 'Ada Lovelace',
        terms_accepted: true,
      }),
    },
    responses: {
      201: success(
        z
          .object({
            user_id: uuid,
            email: z.string(),
            full_name: z.string(),
            is_verified: z.literal(false),
            created_at: timestamp,
          })
          .openapi('Registered'),
        {
          description: 'The account exists; its address is not verified yet.',
          example: { user_id: USER_ID, email: ADDRESS, full_name: 'Ada Lovelace', is_verified: false, created_at: AT },
        },
      ),
      ...errorResponses(409),
      ...commandResponses('user.register'),
    },
  }),
  verifyEmail: createRoute({
    method: 'post',
    path: '/auth/verify-email',
    operationId: 'verifyEmail',
    tags,
    summary: 'Verify an address with the token that was mailed to it',
    description: 'The token works once and for 24 hours.',
    middleware: [rateLimit('user')],
    request: {
      body: jsonBody(z.strictObject({ token: linkToken }), { token: 'mN3o6kYw0l8m2cJt1v5bqg7Xr9dE4sHfUaZ0pTiQ2wA' }),
    },
    responses: {
      200: success(z.object({ user_id: uuid, email: z.string(), is_verified: z.literal(true) }), {
        example: { user_id: USER_ID, email: ADDRESS, is_verified: true },
      }),
      ...errorResponses(400, 413, 415, 429, 503),
    },
  }),
  resendVerification: createRoute({
    method: 'post',
    path: '/auth/resend-verification',
    operationId: 'resendVerification',
    tags,
    summary: 'Mail the verification link again',
    description: 'The answer is the same whether or not there is such an account.',
    middleware: [rateLimit('user')],
    request: { headers: commandHeaders, body: jsonBody(z.strictObject({ email }), { email: ADDRESS }) },
    responses: {
      ...commandResponses('user.resend-verification'),
      202: success(addressSchema, {
        description: 'If it is needed, a mail is on its way.',
        example: { email: ADDRESS },
      }),
    },
  }),
  login: createRoute({
    method: 'post',
    path: '/auth/login',
    operationId: 'login',
    tags,
    summary: 'Sign in',
    description:
      'After 5 failures the address, after 20 the network is locked for 30 seconds, and twice as long with each further failure, up to 15 minutes. A reset of the password stays possible. With a second factor the answer is 401 with `details: {mfa_required: true}` until `code` is sent along.',
    middleware: [rateLimit('login')],
    request: {
      body: jsonBody(z.strictObject({ email, password: presentedPassword, code: oneTimeCode.optional() }), {
        email: ADDRESS,
        password: PASSWORD,
      }),
    },
    responses: {
      200: success(tokensSchema, { description: 'Signed in.', example: TOKENS }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  refresh: createRoute({
    method: 'post',
    path: '/auth/refresh',
    operationId: 'refreshTokens',
    tags,
    summary: 'Trade a refresh token for the next pair',
    description:
      'The token just replaced gets the same successor for 30 seconds. An older one ends the whole session: it was copied.',
    middleware: [rateLimit('user')],
    request: {
      body: jsonBody(z.strictObject({ refresh_token: text({ max: 256, trim: false }) }), {
        refresh_token: TOKENS.refresh_token,
      }),
    },
    responses: { 200: success(tokensSchema, { example: TOKENS }), ...errorResponses(400, 401, 413, 415, 429, 503) },
  }),
  forgotPassword: createRoute({
    method: 'post',
    path: '/auth/forgot-password',
    operationId: 'forgotPassword',
    tags,
    summary: 'Mail a link to choose a new password',
    description:
      'The answer is the same whether or not there is such an account. The link works once and for one hour.',
    middleware: [rateLimit('user')],
    request: { headers: commandHeaders, body: jsonBody(z.strictObject({ email }), { email: ADDRESS }) },
    responses: {
      ...commandResponses('user.forgot-password'),
      202: success(addressSchema, {
        description: 'If there is such an account, a mail is on its way.',
        example: { email: ADDRESS },
      }),
    },
  }),
  resetPassword: createRoute({
    method: 'post',
    path: '/auth/reset-password',
    operationId: 'resetPassword',
    tags,
    summary: 'Choose a new password with the token of a mail',
    description: 'Ends every session, lifts a sign-in lock and verifies the address. A token that is spent is 400.',
    middleware: [rateLimit('user')],
    request: {
      body: jsonBody(z.strictObject({ token: linkToken, password }), {
        token: 'mN3o6kYw0l8m2cJt1v5bqg7Xr9dE4sHfUaZ0pTiQ2wA',
        password: PASSWORD,
      }),
    },
    responses: { 200: success(z.null(), { example: null }), ...errorResponses(400, 413, 415, 429, 503) },
  }),
};

/**
 * A mail takes the worker about 2 ms longer than none (6.0 against 4.5 ms until the answer, median of 25, November
 * 2026), which would tell who has an account. So the answer comes after this long either way.
 */
const EVEN_MS = 100;

async function evenly<T>(answer: Promise<T>): Promise<T> {
  const [result] = await Promise.all([answer, pause(EVEN_MS)]);
  return result;
}

/** Sign-up, sign-in, sessions and passwords: `/auth/…`. */
export function authRoutes(deps: AuthDeps): ApiRouter {
  const router = createRouter();
  const { identity, transact, keyring } = deps;
  const hands = () => ({ em: deps.database.em.fork(), transact, keyring, ...identity });

  router.openapi(routes.register, async (c) => {
    const body = c.req.valid('json');
    const plain = acceptPassword(body.password);
    refuseSimilar(plain, body.email);
    const sealed = await keyring.seal('command', plain, { expiresIn: SEALED_PASSWORD_SECONDS });
    const data = { ...body, user_id: newId(), password: sealed };
    return answerCommand(c, deps, registerUserCommand, data, { idempotent: { fingerprintOf: body } });
  });

  router.openapi(routes.verifyEmail, async (c) => {
    const { token } = c.req.valid('json');
    const { user_id, email } = await transact(c.get('context'), (unit) => verifyEmail(unit, token));
    return ok(c, { user_id, email, is_verified: true });
  });

  router.openapi(routes.resendVerification, async (c) => {
    const body = c.req.valid('json');
    return evenly(answerCommand(c, deps, resendVerificationCommand, body, { idempotent: { fingerprintOf: body } }));
  });

  router.openapi(routes.login, async (c) => ok(c, await signIn(hands(), c.get('context'), c.req.valid('json'))));

  router.openapi(routes.refresh, async (c) =>
    ok(c, await refreshSession(hands(), c.get('context'), c.req.valid('json').refresh_token)),
  );

  router.openapi(routes.forgotPassword, async (c) => {
    const body = c.req.valid('json');
    return evenly(answerCommand(c, deps, forgotPasswordCommand, body, { idempotent: { fingerprintOf: body } }));
  });

  router.openapi(routes.resetPassword, async (c) => {
    await resetPassword(hands(), c.get('context'), c.req.valid('json'));
    return ok(c, null, { message: 'the password was changed; please sign in' });
  });

  router.route('/', credentialRoutes(deps));
  router.route('/', sessionRoutes(deps));
  return router;
}

const keySetSchema = z
  .object({
    keys: z.array(
      z.object({
        kty: z.string(),
        crv: z.string(),
        x: z.string(),
        kid: z.string(),
        use: z.literal('sig'),
        alg: z.literal('Ed25519'),
      }),
    ),
  })
  .openapi('KeySet');

const jwks = createRoute({
  method: 'get',
  path: '/.well-known/jwks.json',
  operationId: 'getKeySet',
  tags,
  summary: 'The public keys of access tokens',
  description:
    'A JSON Web Key Set (RFC 7517) without an envelope. Keys rotate: look again for a `kid` you do not know.',
  responses: {
    200: {
      description: 'The keys that are in use or were until a moment ago.',
      content: {
        'application/json': {
          schema: keySetSchema,
          example: {
            keys: [
              {
                kty: 'OKP',
                crv: 'Ed25519',
                x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo',
                kid: 'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k',
                use: 'sig',
                alg: 'Ed25519',
              },
            ],
          },
        },
      },
    },
    ...errorResponses(503),
  },
});

/** `/.well-known/jwks.json` and the pages that mailed links open, to be mounted at the root. */
export function keySetRoutes(deps: { identity: Pick<Identity, 'signingKeys'> }): ApiRouter {
  const router = createRouter();
  router.route('/', verifyPages());
  router.route('/', resetPages());
  router.openapi(jwks, async (c) => {
    const keys = await deps.identity.signingKeys.jwks();
    return c.json(keys, 200, { 'Cache-Control': `public, max-age=${JWKS_CACHE_SECONDS}` }) as never;
  });
  return router;
}
