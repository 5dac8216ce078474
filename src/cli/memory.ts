import { ApiKeyVerifier } from '../domain/api-keys/verifier.ts';
import { EventTypeDirectory } from '../domain/events/type-directory.ts';
import { type Authenticate, createAuthenticate } from '../domain/sessions/authenticate.ts';
import { Notices } from '../services/notices.ts';
import { RevisionWatch } from '../services/revision.ts';
import type { Runtime } from './runtime.ts';

/** What an API process keeps in memory under a revision, and what tells it of a new one. */
export interface Memory {
  /** Whose access token it is, by sessions remembered under their revision. */
  authenticate: Authenticate;
  notices: Notices;
  apiKeys: ApiKeyVerifier;
  eventTypes: EventTypeDirectory;
}

export function createMemory({ config, log, database, messaging, identity }: Runtime): Memory {
  const { redis, subscriber } = messaging;
  const notices = new Notices({ publisher: redis, subscriber, namespace: config.namespace });
  const sessions = new RevisionWatch(database, 'sessions', notices);
  return {
    authenticate: createAuthenticate({
      database,
      accessTokens: identity.accessTokens,
      secondFactorRequired: config.secondFactorRequired,
      sessions,
    }),
    notices,
    apiKeys: new ApiKeyVerifier({ database, log, notices }),
    eventTypes: new EventTypeDirectory(database, notices),
  };
}
