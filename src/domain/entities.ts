import type { Entities } from '../services/database.ts';
import { ApiKey } from './api-keys/entities.ts';
import { AuditCheckpoint, AuditEvent, AuditKey, AuditSubjectKey, AuditVerification } from './audit/index.ts';
import { DeadLetter } from './dead-letters/entities.ts';
import { Email } from './emails/entities.ts';
import { EventTypeVersion, StoredEvent } from './events/entities.ts';
import { KycAttempt, KycCallback, KycTransition } from './kyc/entities.ts';
import {
  IdempotencyKey,
  InboxMessage,
  Installation,
  Operation,
  OutboxMessage,
  Revision,
} from './operations/entities.ts';
import { PoolSetting } from './pools/entities.ts';
import { Session, SigningKey, SigninLock } from './sessions/entities.ts';
import { User, UserToken } from './users/entities.ts';
import {
  WebhookAttempt,
  WebhookBreaker,
  WebhookDelivery,
  WebhookEndpoint,
  WebhookSecret,
} from './webhooks/entities.ts';

/** Every entity: what the ORM maps, and what the ERD in docs/database.md is drawn from. */
export const entities: Entities = [
  User,
  UserToken,
  Session,
  SigninLock,
  SigningKey,
  ApiKey,
  Email,
  StoredEvent,
  EventTypeVersion,
  WebhookEndpoint,
  WebhookSecret,
  WebhookDelivery,
  WebhookAttempt,
  WebhookBreaker,
  KycAttempt,
  KycTransition,
  KycCallback,
  AuditEvent,
  AuditCheckpoint,
  AuditKey,
  AuditSubjectKey,
  AuditVerification,
  Operation,
  IdempotencyKey,
  OutboxMessage,
  InboxMessage,
  DeadLetter,
  Revision,
  PoolSetting,
  Installation,
];
