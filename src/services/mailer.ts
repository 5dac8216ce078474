import { createTransport, type NodemailerError } from 'nodemailer';
import type { Config } from '../config.ts';
import type { Mailer, OutgoingMail } from '../domain/emails/mailer.ts';
import { pause } from './service.ts';

/** A mailer that holds connections. */
export interface MailTransport extends Mailer {
  /** Lets the mails under way finish, for `deadlineMs` at most; then breaks their connections. A second call does nothing. */
  close(deadlineMs: number): Promise<void>;
}

/** Every wait on the server is bounded, in ms; together they fit into the time that one attempt has. */
const TIMEOUTS = {
  dnsTimeout: 4000,
  connectionTimeout: 5000,
  greetingTimeout: 5000,
  socketTimeout: 8000,
  socketCloseTimeout: 1000,
};

/**
 * SMTP (RFC 5321) over pooled connections. `smtps:` is TLS from the start, `smtp:` upgrades with STARTTLS when the
 * server offers it; certificates are checked. Options of nodemailer in the query of the URL (`?tls.servername=…`)
 * win over the ones set here.
 */
export function createSmtpMailer(
  url: string,
  options: { connections: number; timeouts?: Partial<typeof TIMEOUTS> },
): MailTransport {
  const transport = createTransport({
    url,
    pool: true,
    maxConnections: options.connections,
    // A pooled connection that the server dropped meanwhile gets the mail one more; further tries are the caller's.
    maxRequeues: 1,
    // The content comes from templates: no address in it may ever be read as a file or fetched.
    disableFileAccess: true,
    disableUrlAccess: true,
    ...TIMEOUTS,
    ...options.timeouts,
  });
  // A broken pool member is not an event of its own: the mail on it fails, and that is handled.
  transport.on('error', () => undefined);
  const underWay = new Set<Promise<unknown>>();
  let closed = false;

  async function send(mail: OutgoingMail, signal: AbortSignal): Promise<{ accepted: boolean; response: string }> {
    try {
      const sending = transport.sendMail({ ...mail, to: { name: '', address: mail.to }, signal });
      underWay.add(sending);
      const { response } = await sending.finally(() => underWay.delete(sending));
      return { accepted: true, response };
    } catch (error) {
      const { command, response } = error as NodemailerError;
      // What the server says to the recipient or to the message is its answer; the rest is a failure of the way there.
      if (response && (command === 'RCPT TO' || command === 'DATA')) return { accepted: false, response };
      throw error;
    }
  }

  return {
    send,
    async close(deadlineMs) {
      if (closed) return;
      closed = true;
      transport.close();
      if (underWay.size === 0) return;
      const done = new AbortController();
      await Promise.race([Promise.allSettled(underWay), pause(deadlineMs, done.signal)]);
      done.abort();
      transport.close({ force: true });
    },
  };
}

/** The mailer that the configuration asks for: SMTP, or without `SMTP_URL` (development only) the built-in inbox. */
export function createMailer(config: Pick<Config, 'env' | 'smtpUrl' | 'concurrency'>, inbox: Mailer): MailTransport {
  if (config.smtpUrl) return createSmtpMailer(config.smtpUrl, { connections: config.concurrency.email });
  if (config.env === 'production') throw new Error('SMTP_URL is required in production');
  return { send: (mail, signal) => inbox.send(mail, signal), close: async () => undefined };
}
