import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import type { Keyring } from '../../services/keyring.ts';
import { newId } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { renderSubject, type TemplateName, templateData } from './templates.ts';

/** A mail to be sent: whom, and what with. `data` holds the template's variables, links with their tokens included. */
export interface QueuedMail {
  /** The user it concerns, or `null` when it concerns none. */
  userId: string | null;
  to: string;
  template: TemplateName;
  data: Record<string, string>;
}

/**
 * Writes an e-mail to be sent after the commit and returns its id. The variables are sealed (JWE) until the mail is
 * sent; the row keeps nothing of them but the subject. Throws `TemplateError` when a variable is missing.
 */
export async function queueEmail(unit: Unit, mail: QueuedMail, keyring: Keyring): Promise<string> {
  const id = newId();
  const subject = renderSubject(mail.template, mail.data);
  const sealed = await keyring.seal('email', JSON.stringify(templateData(mail.template, mail.data)));
  await sql`
    insert into emails (id, user_id, recipient, template, subject, sealed_data, status, next_attempt_at, message_id, correlation_id)
    values (${id}, ${mail.userId}, ${mail.to}, ${mail.template}, ${subject}, ${sealed}, 'pending', now(), ${`<${id}@waybill>`}, ${unit.emit.context.correlationId})`.execute(
    unit.em.getKysely(),
  );
  unit.emit.alarm({ queue: 'email', id, attempt: 0, generation: 0, at: currentTime() });
  return id;
}
