import { sql } from 'kysely';
import { createApp } from '../../../src/api/app.ts';
import type { ApiRouter } from '../../../src/api/router.ts';
import { adminUserRoutes } from '../../../src/api/routes/admin-users.ts';
import { authRoutes, keySetRoutes } from '../../../src/api/routes/auth.ts';
import { userRoutes } from '../../../src/api/routes/users.ts';
import { loadConfig } from '../../../src/config.ts';
import { EventTypeDirectory } from '../../../src/domain/events/type-directory.ts';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import { ANONYMOUS, type RequestContext } from '../../../src/domain/messages/envelope.ts';
import { createIdentity, type Identity } from '../../../src/domain/sessions/identity.ts';
import { ensureAdmin } from '../../../src/domain/users/administration.ts';
import { Relay } from '../../../src/queues/relay.ts';
import type { EntityManager } from '../../../src/services/database.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { EndpointDirectory } from '../../../src/webhooks/directory.ts';
import { fanOutEvents } from '../../../src/workers/fan-out-events.ts';
import { mailPasswordReset } from '../../../src/workers/forgot-password.ts';
import { registerUser } from '../../../src/workers/register-user.ts';
import { resendVerificationMail } from '../../../src/workers/resend-verification.ts';
import { writeAudit } from '../../../src/workers/write-audit.ts';
import { createHarness, type Harness } from '../../harness.ts';

export const PASSWORD = 'a quiet harbour at dawn';

export interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: the shape of an answer is what the tests are about
  body: any;
}

export interface Ask {
  method?: string;
  json?: unknown;
  raw?: string;
  token?: string | undefined;
  headers?: Record<string, string>;
}

export interface Mail {
  template: string;
  recipient: string;
  subject: string;
  token: string | undefined;
  link: string | undefined;
}

export interface Emitted {
  target: string;
  type: string;
  // biome-ignore lint/suspicious/noExplicitAny: the shape of a message is what the tests are about
  data: any;
  subject?: string;
  sequence?: number;
}

export interface Stage {
  harness: Harness;
  identity: Identity;
  app: ApiRouter;
  em(): EntityManager;
  ask(path: string, ask?: Ask): Promise<Answer>;
  /** A verified account with `PASSWORD`; the address is made up unless given. */
  user(email?: string): Promise<{ id: string; email: string }>;
  admin(): Promise<{ id: string; email: string; token: string }>;
  signIn(email: string, password?: string): Promise<Answer>;
  /** Mails to an address, the newest first, as they would be sent. */
  mails(email: string): Promise<Mail[]>;
  /** Everything emitted about a user or, without one, since the start; oldest first. */
  emitted(userId?: string): Promise<Emitted[]>;
  close(): Promise<void>;
}

let count = 0;
export const freshEmail = (): string => `person${++count}.${newId().slice(-6)}@example.com`;

export const anonymously = (more: Partial<RequestContext> = {}): RequestContext => {
  const id = newId();
  return { requestId: id, correlationId: id, actor: ANONYMOUS, ...more };
};

/**
 * The account routes over real services, with the workers of the registration pool running. `whole`: what is emitted
 * is published too, and becomes events and audit rows, so `emitted` finds it no longer.
 */
export async function openStage(env: Record<string, string> = {}, { whole = false } = {}): Promise<Stage> {
  const secret = loadConfigSecret();
  const keyring = new Keyring(Buffer.from(secret, 'base64'));
  const settings = loadConfig({ NODE_ENV: 'test', ARGON2_MEMORY_KIB: '1024', SECRETS_KEY: secret, ...env });
  const workers = [registerUser, resendVerificationMail, mailPasswordReset].map((make) =>
    make({ config: settings, keyring }),
  );
  const harness = await createHarness({ SECRETS_KEY: secret, ...env }, workers);
  const { config, database, messaging, log } = harness;
  if (whole) {
    const { publisher, alarms, topology, wake } = messaging;
    const directory = new EndpointDirectory(database, keyring);
    const relay = new Relay({ database, publisher, alarms, topology, wake, log });
    const all = [
      ...workers,
      fanOutEvents({ database, messaging, directory, eventTypes: new EventTypeDirectory(database) }),
      writeAudit({ keyring, database }),
    ];
    await harness.start(all, ['registration', 'fanout', 'audit', 'housekeeping'], [relay]);
  } else await harness.start(workers, ['registration', 'housekeeping']);
  const { transact, commands } = messaging;
  const identity = createIdentity({ database, keyring, config });
  const operationIds = new OperationIds(keyring.for('operation-id').current().key);
  const deps = { config, log, database, keyring, operationIds, transact, commands, identity };
  const app = createApp(
    { config, log, authenticate: identity.authenticate, redis: messaging.redis },
    { api: [authRoutes(deps), userRoutes(deps), adminUserRoutes(deps)], root: [keySetRoutes(deps)] },
  );
  const em = () => database.em.fork();

  const ask = async (path: string, { method, json, raw, token, headers }: Ask = {}): Promise<Answer> => {
    const body = raw ?? (json === undefined ? undefined : JSON.stringify(json));
    const response = await app.request(path.startsWith('/.') ? path : `/api/v1${path}`, {
      method: method ?? (body === undefined ? 'GET' : 'POST'),
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(token ? { authorization: `Bearer ${token}` } : {}),
        ...headers,
      },
      ...(body === undefined ? {} : { body }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : undefined };
  };
  const signIn = (email: string, password = PASSWORD) => ask('/auth/login', { json: { email, password } });

  return {
    harness,
    identity,
    app,
    em,
    ask,
    signIn,
    async user(email = freshEmail()) {
      const id = newId();
      const hash = await identity.passwords.hash(PASSWORD);
      await sql`
        insert into users (id, email, password_hash, full_name, is_verified)
        values (${id}, ${email}, ${hash}, 'Some Body', true)`.execute(em().getKysely());
      return { id, email };
    },
    async admin() {
      const email = freshEmail();
      const made = await ensureAdmin(
        { em: em(), transact, passwords: identity.passwords },
        { email, password: PASSWORD },
      );
      const { body } = await signIn(email);
      return { id: made.user.user_id, email, token: body.data.access_token };
    },
    async mails(email) {
      const { rows } = await sql<{ template: string; recipient: string; subject: string; sealed_data: string }>`
        select template, recipient, subject, sealed_data from emails
        where lower(recipient) = lower(${email}) order by id desc`.execute(em().getKysely());
      return Promise.all(
        rows.map(async ({ sealed_data, ...mail }) => {
          const { link } = JSON.parse(await keyring.open('email', sealed_data));
          return { ...mail, link, token: link && (new URL(link).searchParams.get('token') ?? undefined) };
        }),
      );
    },
    async emitted(userId) {
      const { rows } = await sql<{ target: string; body: string }>`
        select target, body from outbox where transport = 'rabbitmq' order by id`.execute(em().getKysely());
      return rows
        .filter(({ body }) => !userId || body.includes(userId))
        .map(({ target, body }) => {
          const { type, data, subject, sequence } = JSON.parse(body);
          return { target, type: target === 'audit' ? data.action : type, data, subject, sequence };
        });
    },
    close: () => harness.close(),
  };
}

const loadConfigSecret = (): string =>
  Buffer.from(newId() + newId())
    .subarray(0, 32)
    .toString('base64');

export async function query<T>(stage: Stage, statement: ReturnType<typeof sql<T>>): Promise<T[]> {
  return (await statement.execute(stage.em().getKysely())).rows;
}
