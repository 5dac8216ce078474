/** One mail as a transport takes it. */
export interface OutgoingMail {
  /** A bare address: `ada@example.org`. */
  to: string;
  /** An address with or without a name: `Waybill <no-reply@example.org>`. */
  from: string;
  subject: string;
  text: string;
  html: string;
  /** With its angle brackets; the same on every attempt. */
  messageId: string;
  headers: Record<string, string>;
}

/**
 * The way out. `accepted` says whether the server took the message, `response` is its reply line. A refusal is an
 * answer (`accepted: false`); whatever kept the server from answering (connection, time, credentials) is thrown.
 */
export interface Mailer {
  /** Gives up when `signal` aborts: a mail that was given up is not delivered later. */
  send(mail: OutgoingMail, signal: AbortSignal): Promise<{ accepted: boolean; response: string }>;
}

/** The longest one attempt may take, in ms; the lease of a row is longer by what it takes to record the result. */
export const SEND_TIMEOUT_MS = 15_000;
