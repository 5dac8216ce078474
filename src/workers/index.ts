import type { Config, Pool } from '../config.ts';
import type { Mailer } from '../domain/emails/mailer.ts';
import type { EventTypeDirectory } from '../domain/events/type-directory.ts';
import { PROVIDERS } from '../domain/kyc/providers.ts';
import type { Messaging } from '../queues/messaging.ts';
import type { AnyWorker } from '../queues/worker.ts';
import { createAnchorKeeper } from '../services/anchor.ts';
import type { Database } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import type { Deliveries } from '../webhooks/delivery.ts';
import type { EndpointDirectory } from '../webhooks/directory.ts';
import { applyKycCallbackWorker } from './apply-kyc-callback.ts';
import { cancelKycWorker } from './cancel-kyc.ts';
import { decideKycWorker } from './decide-kyc.ts';
import { deliverWebhooks, retryWebhooks } from './deliver-webhooks.ts';
import { fanOutEvents } from './fan-out-events.ts';
import { mailPasswordReset } from './forgot-password.ts';
import { registerUser } from './register-user.ts';
import { resendVerificationMail } from './resend-verification.ts';
import { sendEmailWorker } from './send-email.ts';
import { submitKycWorker } from './submit-kyc.ts';
import { verifyAuditLog } from './verify-audit.ts';
import { writeAudit } from './write-audit.ts';

export interface WorkerDeps {
  config: Config;
  database: Database;
  keyring: Keyring;
  messaging: Messaging;
  mailer: Mailer;
  directory: EndpointDirectory;
  deliveries: Deliveries;
  eventTypes: EventTypeDirectory;
}

/** Every worker there is, by pool. A process starts those of the pools that it was asked for. */
export function createWorkers(deps: WorkerDeps): AnyWorker[] {
  const { config, database, keyring, messaging } = deps;
  const pools: Record<Pool, AnyWorker[]> = {
    registration: [
      registerUser({ config, keyring }),
      resendVerificationMail({ config, keyring }),
      mailPasswordReset({ config, keyring }),
    ],
    kyc: [
      submitKycWorker({ keyring, provider: PROVIDERS[config.kyc.provider] }),
      cancelKycWorker(),
      decideKycWorker({ keyring }),
      applyKycCallbackWorker({ keyring }),
    ],
    fanout: [fanOutEvents({ database, messaging, directory: deps.directory, eventTypes: deps.eventTypes })],
    audit: [writeAudit({ keyring, database, anchor: createAnchorKeeper(messaging.redis, config.namespace).keep })],
    email: [
      sendEmailWorker({ database, transact: messaging.transact, keyring, mailer: deps.mailer, from: config.mailFrom }),
    ],
    webhooks: [
      deliverWebhooks({ deliveries: deps.deliveries, concurrency: config.concurrency.webhooks }),
      retryWebhooks({ deliveries: deps.deliveries }),
    ],
    housekeeping: [verifyAuditLog({ database, keyring })],
  };
  return Object.values(pools).flat();
}
