import { randomBytes } from 'node:crypto';
import type { Webhook } from 'standardwebhooks';
import { Client, until } from './client.ts';
import { check, type Narrator } from './narrator.ts';
import type { Platform } from './platform.ts';
import type { Received, Subscriber } from './subscriber.ts';
import { type Hop, trailTable } from './trail.ts';

/** What a step of the story works with. */
interface Scene {
  narrator: Narrator;
  platform: Platform;
  client: Client;
  subscriber: Subscriber;
  /** The public library that the subscriber verifies with. */
  Verifier: typeof Webhook;
}

interface Person {
  email: string;
  password: string;
  full_name: string;
}

const person = (name: string): Person => ({
  email: `${name.toLowerCase()}-${randomBytes(3).toString('hex')}@demo.example`,
  password: randomBytes(12).toString('base64url'),
  full_name: name,
});

const registration = (who: Person) => ({ ...who, terms_accepted: true });

/** The story of the README, each step checked; throws at the first that does not hold. */
export async function tellStory(stage: Omit<Scene, 'client'>): Promise<void> {
  const { narrator, platform } = stage;
  narrator.chapter('A platform of its own');
  const title = `waybill start, database ${platform.databaseName}, namespace ${platform.namespace}`;
  const base = await narrator.step(title, () => platform.start());
  const scene: Scene = { ...stage, client: new Client(base) };

  narrator.chapter('An account');
  const ada = person('Ada');
  const user = await openAccount(scene, ada);

  narrator.chapter('Signed webhooks');
  const admin = await subscribe(scene);
  const operationId = await receiveRegistration(scene, admin);
  await receivePayments(scene, admin);

  narrator.chapter('Identity check');
  await approveKyc(scene, user, admin);

  narrator.chapter('Audit');
  await verifyAudit(scene, admin);

  narrator.chapter('The trail of the second registration');
  await showTrail(scene, admin, operationId);

  narrator.chapter('The end');
  await narrator.step('SIGTERM: the platform drains and exits with code 0', () => platform.stop());
}

interface SignedIn {
  id: string;
  token: string;
}

async function openAccount({ narrator, client }: Scene, ada: Person): Promise<SignedIn> {
  const { user_id: id } = await narrator.step('POST /auth/register answers 201', async () => {
    const user = await client.call<{ user_id: string; email: string; is_verified: boolean }>('POST', '/auth/register', {
      body: registration(ada),
      status: 201,
    });
    check(user.email === ada.email && user.is_verified === false, 'the new user, not verified yet', user);
    return user;
  });
  const token = await narrator.step('the verification mail arrives in /dev/mail.json', () =>
    until(`a mail to ${ada.email} with a token`, async () => {
      const { data } = await client.page<{ data: { to: string; subject: string; text: string }[] }>('/dev/mail.json');
      const mail = data.find(({ to }) => to === ada.email);
      return { found: /token=([\w-]+)/.exec(mail?.text ?? '')?.[1], seen: mail ?? `${data.length} other mails` };
    }).then((found) => ({ found })),
  );
  await narrator.step('POST /auth/verify-email with the mailed token answers 200', async () => {
    const user = await client.call<{ is_verified: boolean }>('POST', '/auth/verify-email', {
      body: { token: token.found },
      status: 200,
    });
    check(user.is_verified === true, 'is_verified: true', user);
  });
  await narrator.step('the same token a second time is refused', async () => {
    const error = await client.call<{ code: string }>('POST', '/auth/verify-email', {
      body: { token: token.found },
      status: 400,
    });
    return `400 ${error.code}`;
  });
  const session = await narrator.step('POST /auth/login answers 200', async () => ({
    id,
    token: await signIn(client, ada),
  }));
  await narrator.step('GET /users/me is the verified user', async () => {
    const me = await client.call<{ user_id: string; email: string; is_verified: boolean }>('GET', '/users/me', {
      token: session.token,
      status: 200,
    });
    check(me.user_id === id && me.email === ada.email && me.is_verified, `the user ${id}, verified`, me);
  });
  return session;
}

async function signIn(client: Client, who: { email: string; password: string }): Promise<string> {
  const tokens = await client.call<{ access_token: string; token_type: string }>('POST', '/auth/login', {
    body: { email: who.email, password: who.password },
    status: 200,
  });
  check(tokens.token_type === 'Bearer' && tokens.access_token !== '', 'a Bearer token', tokens.token_type);
  return tokens.access_token;
}

/** Resolves with the administrator's access token. */
async function subscribe({ narrator, client, platform, subscriber, Verifier }: Scene): Promise<string> {
  const { token } = await narrator.step('the administrator signs in', async () => ({
    token: await signIn(client, platform.admin),
  }));
  await narrator.step('POST /webhooks/endpoints answers 201 with the secret', async () => {
    const url = await subscriber.listen();
    const endpoint = await client.call<{ secret?: string }>('POST', '/webhooks/endpoints', {
      token,
      body: { url, description: 'The demo’s subscriber', event_types: ['user.created', 'payment.succeeded', 'kyc.*'] },
      status: 201,
    });
    check(endpoint.secret?.startsWith('whsec_') === true, 'a secret whsec_…', 'none');
    subscriber.verifyWith(new Verifier(endpoint.secret));
    return url;
  });
  return token;
}

/** Resolves with the id of the registration's operation. */
async function receiveRegistration({ narrator, client, subscriber }: Scene, admin: string): Promise<string> {
  const grace = person('Grace');
  const accepted = await narrator.step('POST /auth/register with Prefer: respond-async answers 202 at once', () =>
    client.call<{ operation_id: string }>('POST', '/auth/register', {
      body: registration(grace),
      headers: { prefer: 'respond-async' },
      status: 202,
    }),
  );
  await narrator.step('GET /operations/{id} says that it succeeded', async () => {
    const operation = await client.call<{ status: string; result?: { email?: string } }>(
      'GET',
      `/operations/${accepted.operation_id}`,
      { token: admin, headers: { prefer: 'wait=15' }, status: 200 },
    );
    check(operation.status === 'succeeded' && operation.result?.email === grace.email, 'status succeeded', operation);
  });
  const event = await narrator.step('user.created arrives, its signature verified by standardwebhooks', () =>
    subscriber.arrival('user.created', ({ data }) => data.email === grace.email),
  );
  await narrator.step('the same library rejects a tampered copy', async () => rejectsTampered(subscriber, event));
  return accepted.operation_id;
}

function rejectsTampered(subscriber: Subscriber, { headers, body }: Received): void {
  const tampered = body.replace('Grace', 'Mallory');
  check(tampered !== body, 'a body to tamper with', body);
  let reason = '';
  try {
    subscriber.verify(headers, tampered);
  } catch (error) {
    reason = (error as Error).message;
  }
  check(/signature/i.test(reason), 'a rejected signature', reason || 'the tampered copy was accepted');
}

async function receivePayments({ narrator, client, subscriber }: Scene, admin: string): Promise<void> {
  const publish = (id: string) =>
    client.call<{ event_id: string }>('POST', '/events', {
      token: admin,
      body: { id, type: 'payment.succeeded', data: { payment_id: id, amount: 19.9, currency: 'EUR' } },
      status: 202,
    });
  const [first, second] = [`pay_${randomBytes(4).toString('hex')}`, `pay_${randomBytes(4).toString('hex')}`];
  await narrator.step('POST /events publishes payment.succeeded: 202', () => publish(first));
  await narrator.step('payment.succeeded arrives, verified, with the published data', async () => {
    const { id, data } = await subscriber.arrival('payment.succeeded', (request) => request.data.payment_id === first);
    check(id === first && data.amount === 19.9 && data.currency === 'EUR', `the event ${first} as published`, data);
  });
  await narrator.step('the subscriber answers 500: the event comes again under the same webhook-id', async () => {
    subscriber.failOnce();
    await publish(second);
    const again = await subscriber.arrival('payment.succeeded', (request) => request.data.payment_id === second);
    const attempts = subscriber.received.filter(({ data }) => data.payment_id === second);
    const [failed] = attempts;
    check(
      attempts.length === 2 && failed?.status === 500 && failed.id === again.id && again.id === second,
      `two requests with webhook-id ${second}, answered 500 and 204`,
      attempts.map(({ id, status }) => `${id} answered ${status}`).join(', '),
    );
    return `after ${((again.at - failed.at) / 1000).toFixed(1)} s`;
  });
}

async function approveKyc({ narrator, client, subscriber }: Scene, user: SignedIn, admin: string): Promise<void> {
  await narrator.step('PATCH /users/me/kyc hands in a passport: 200', () =>
    client.call<object>('PATCH', '/users/me/kyc', {
      token: user.token,
      body: {
        date_of_birth: '1985-12-10',
        country: 'PT',
        document: { type: 'passport', number: 'XK447199', expires_on: `${new Date().getUTCFullYear() + 5}-05-04` },
      },
      status: 200,
    }),
  );
  await narrator.step('the check is in_review', async () => {
    await until('status in_review', async () => {
      const seen = await client.call<{ status: string }>('GET', '/users/me/kyc', { token: user.token, status: 200 });
      return { found: seen.status === 'in_review' || undefined, seen };
    });
  });
  await narrator.step('PUT /admin/users/{id}/kyc: the administrator approves: 200', async () => {
    const decided = await client.call<{ status: string }>('PUT', `/admin/users/${user.id}/kyc`, {
      token: admin,
      body: { status: 'approved', comment: 'Looks right.' },
      status: 200,
    });
    check(decided.status === 'approved', 'status approved', decided);
  });
  await narrator.step('GET /users/me has kyc_status verified', async () => {
    const me = await client.call<{ kyc_status: string }>('GET', '/users/me', { token: user.token, status: 200 });
    check(me.kyc_status === 'verified', 'kyc_status verified', me);
  });
  await narrator.step('kyc.approved arrives, verified', async () => {
    await subscriber.arrival('kyc.approved', ({ data }) => data.user_id === user.id);
  });
}

async function verifyAudit({ narrator, client, platform }: Scene, admin: string): Promise<void> {
  await narrator.step('GET /admin/audit/verify: the log is intact', async () => {
    const result = await client.call<{ intact: boolean; rows: number; checkpoints: number }>(
      'GET',
      '/admin/audit/verify',
      { token: admin, status: 200 },
    );
    check(result.intact && result.rows > 0 && result.checkpoints > 0, 'an intact log with rows in it', result);
    return `${result.rows} rows, ${result.checkpoints} checkpoints`;
  });
  await narrator.step('waybill audit verify exits with code 0', async () => {
    const { code, output } = await platform.run(['audit', 'verify']);
    check(code === 0 && output.startsWith('intact'), 'exit code 0', `exit code ${code}: ${output}`);
  });
}

/** Everything that a registration must have caused; the audit rows are sealed a moment after the rest. */
const PROMISED_HOPS = [
  'request.accepted',
  'command.handled',
  'event.published',
  'email.queued',
  'email.sent',
  'webhook.attempted',
  'audit.recorded',
];

async function showTrail({ narrator, client }: Scene, admin: string, operationId: string): Promise<void> {
  const hops = await narrator.step('GET /operations/{id}/trail has every hop', () =>
    until(`the hops ${PROMISED_HOPS.join(', ')}`, async () => {
      const trail = await client.call<{ hops: Hop[] }>('GET', `/operations/${operationId}/trail`, {
        token: admin,
        status: 200,
      });
      const kinds = trail.hops.map(({ kind }) => kind);
      const complete = PROMISED_HOPS.every((kind) => kinds.includes(kind));
      return { found: complete ? trail.hops : undefined, seen: kinds.join(', ') };
    }),
  );
  narrator.line();
  for (const line of trailTable(hops)) narrator.line(line);
}
