import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { confirmEmailChange, requestEmailChange } from '../../domain/users/email-change.ts';
import { ONE_TIME_CODE } from '../../domain/users/one-time-codes.ts';
import { changePassword } from '../../domain/users/recovery.ts';
import { disableSecondFactor, enableSecondFactor, setUpSecondFactor } from '../../domain/users/second-factor.ts';
import type { AuthDeps } from '../deps.ts';
import { admitEnrolment, forUsers, sessionOf } from '../middleware/authenticate.ts';
import { rateLimit } from '../middleware/rate-limit.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { email, errorResponses, jsonBody, password, success, text } from '../schemas.ts';

const PASSWORD = 'correct horse battery staple';
const CODE = '492039';
const NEW_ADDRESS = 'ada.king@example.com';

/** A password that is only compared: whatever was accepted once must be possible to send. */
export const presentedPassword = text({ max: 1024, trim: false }).openapi({ format: 'password', example: PASSWORD });

/** Six digits of an authenticator, or a recovery code. */
export const oneTimeCode = text({ max: 64 })
  .regex(ONE_TIME_CODE, 'must be six digits or a recovery code')
  .openapi({ description: 'Six digits of the authenticator, or a recovery code.', example: CODE });

export const linkToken = text({ max: 256, trim: false }).openapi({
  example: 'mN3o6kYw0l8m2cJt1v5bqg7Xr9dE4sHfUaZ0pTiQ2wA',
});

const tags = ['Accounts'];
const security = [{ bearerAuth: [] }];

const routes = {
  changePassword: createRoute({
    method: 'post',
    path: '/auth/change-password',
    operationId: 'changePassword',
    tags,
    summary: 'Change your password',
    description:
      'Ends your other sessions. With a second factor `code` is required. Wrong guesses count towards the sign-in lock.',
    security,
    middleware: forUsers(),
    request: {
      body: jsonBody(
        z.strictObject({ current_password: presentedPassword, new_password: password, code: oneTimeCode.optional() }),
        { current_password: PASSWORD, new_password: 'staple battery horse correct' },
      ),
    },
    responses: { 200: success(z.null(), { example: null }), ...errorResponses(400, 401, 413, 415, 429, 503) },
  }),
  changeEmail: createRoute({
    method: 'post',
    path: '/auth/change-email',
    operationId: 'changeEmail',
    tags,
    summary: 'Ask for another e-mail address',
    description:
      'Mails a link to the new address; the present one stays until it is used, and is told. The answer is the same whether or not another account has the new address. With a second factor `code` is required.',
    security,
    middleware: forUsers(),
    request: {
      body: jsonBody(z.strictObject({ email, password: presentedPassword, code: oneTimeCode.optional() }), {
        email: NEW_ADDRESS,
        password: PASSWORD,
      }),
    },
    responses: {
      202: success(z.object({ email: z.string() }), {
        description: 'If the address can be used, a mail is on its way to it.',
        example: { email: NEW_ADDRESS },
      }),
      ...errorResponses(400, 401, 413, 415, 429, 503),
    },
  }),
  confirmEmail: createRoute({
    method: 'post',
    path: '/auth/confirm-email',
    operationId: 'confirmEmail',
    tags,
    summary: 'Confirm the new address with the token that was mailed to it',
    description: 'Ends every session but the one that asked for the change. The token works once and for one hour.',
    middleware: [rateLimit('user')],
    request: { body: jsonBody(z.strictObject({ token: linkToken })) },
    responses: {
      200: success(z.object({ user_id: uuid, email: z.string() }), {
        example: { user_id: '019a9f3e-6b00-7a11-8e22-3f4455667788', email: NEW_ADDRESS },
      }),
      ...errorResponses(400, 409, 413, 415, 429, 503),
    },
  }),
  setUp: createRoute({
    method: 'post',
    path: '/auth/mfa/setup',
    operationId: 'setUpSecondFactor',
    tags,
    summary: 'Make a secret for your authenticator',
    description: 'Nothing asks for codes before the first one was sent to `/auth/mfa/enable`.',
    security,
    middleware: [admitEnrolment(), ...forUsers()],
    responses: {
      200: success(z.object({ secret: z.string(), otpauth_url: z.string() }), {
        description: 'A TOTP secret (RFC 6238) in base32, and as a link that authenticators scan.',
        example: {
          secret: 'B5ENJYR5DPROJ2YNS5PXP7HNGE3NMDBC',
          otpauth_url:
            'otpauth://totp/Waybill:ada%40example.com?issuer=Waybill&secret=B5ENJYR5DPROJ2YNS5PXP7HNGE3NMDBC',
        },
      }),
      ...errorResponses(401, 409, 429, 503),
    },
  }),
  enable: createRoute({
    method: 'post',
    path: '/auth/mfa/enable',
    operationId: 'enableSecondFactor',
    tags,
    summary: 'Turn the second factor on',
    description:
      'Ends your other sessions. The recovery codes are shown this once; each works once, instead of a code.',
    security,
    middleware: [admitEnrolment(), ...forUsers()],
    request: {
      body: jsonBody(z.strictObject({ code: text({ max: 64 }).regex(/^\d{6}$/, 'must be six digits') }), {
        code: CODE,
      }),
    },
    responses: {
      200: success(z.object({ recovery_codes: z.array(z.string()) }), {
        example: { recovery_codes: ['k3v9tq-8fjw2m-xn5cra-p7h4ed'] },
      }),
      ...errorResponses(400, 401, 409, 413, 415, 429, 503),
    },
  }),
  disable: createRoute({
    method: 'post',
    path: '/auth/mfa/disable',
    operationId: 'disableSecondFactor',
    tags,
    summary: 'Turn the second factor off',
    description: 'Ends your other sessions.',
    security,
    middleware: forUsers(),
    request: {
      body: jsonBody(z.strictObject({ password: presentedPassword, code: oneTimeCode }), {
        password: PASSWORD,
        code: CODE,
      }),
    },
    responses: { 200: success(z.null(), { example: null }), ...errorResponses(400, 401, 409, 413, 415, 429, 503) },
  }),
};

/** Password, address and second factor of a signed-in user. Mounted by `authRoutes`. */
export function credentialRoutes(deps: AuthDeps): ApiRouter {
  const router = createRouter();
  const { identity, transact, keyring, config } = deps;
  const hands = () => ({ em: deps.database.em.fork(), transact, keyring, config, ...identity });

  router.openapi(routes.changePassword, async (c) => {
    const { current_password, new_password, code } = c.req.valid('json');
    const input = { ...sessionOf(c), currentPassword: current_password, newPassword: new_password, code };
    await changePassword(hands(), c.get('context'), input);
    return ok(c, null, { message: 'the password was changed' });
  });

  router.openapi(routes.changeEmail, async (c) => {
    const input = { ...sessionOf(c), ...c.req.valid('json') };
    const asked = await requestEmailChange(hands(), c.get('context'), input);
    return ok(c, asked, { status: 202, message: 'a link was mailed to the new address' });
  });

  router.openapi(routes.confirmEmail, async (c) => {
    const { token } = c.req.valid('json');
    const user = await transact(c.get('context'), (unit) => confirmEmailChange(unit, keyring, token));
    return ok(c, { user_id: user.user_id, email: user.email }, { message: 'the e-mail address was changed' });
  });

  router.openapi(routes.setUp, async (c) =>
    ok(c, await transact(c.get('context'), (unit) => setUpSecondFactor(unit, keyring, sessionOf(c).userId))),
  );

  router.openapi(routes.enable, async (c) => {
    const input = { ...sessionOf(c), ...c.req.valid('json') };
    return ok(c, await enableSecondFactor(hands(), c.get('context'), input), {
      message: 'keep the recovery codes: they are not shown again',
    });
  });

  router.openapi(routes.disable, async (c) => {
    await disableSecondFactor(hands(), c.get('context'), { ...sessionOf(c), ...c.req.valid('json') });
    return ok(c, null, { message: 'the second factor is off' });
  });

  return router;
}
