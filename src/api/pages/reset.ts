import { html } from 'hono/html';
import { PASSWORD_MAX, PASSWORD_MIN } from '../../domain/users/password.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { serveAsset } from './assets.ts';
import { type LinkPage, linkPage, linkPageHeaders } from './verify.ts';

const RESET: LinkPage = {
  title: 'Choose a new password',
  lead: 'You are signed out everywhere when it is changed.',
  action: 'api/v1/auth/reset-password',
  button: 'Set the password',
  done: 'Your password was changed and every session was ended. You can sign in now.',
  spent: 'This link is not valid: it was used before, has expired, or is not complete. You can have a new one mailed.',
  fields: html`<label>New password <input name="password" type="password" autocomplete="new-password" required minlength="${PASSWORD_MIN}" aria-describedby="rules"></label>
<label class="check"><input id="show" type="checkbox"> Show it</label>
<ul id="rules">
<li>${PASSWORD_MIN} to ${PASSWORD_MAX} characters, any of them: spaces and every script too</li>
<li>not one of the most used passwords</li>
<li>not your e-mail address or the name of this service, nor little more than that</li>
</ul>`,
  again: { action: 'api/v1/auth/forgot-password', button: 'Mail me a new link' },
};

/** `/reset-password`. */
export function resetPages(): ApiRouter {
  const router = createRouter();
  router.use('/reset-password', linkPageHeaders());
  serveAsset(router, '/reset-password', { contentType: 'text/html; charset=utf-8', load: () => linkPage(RESET) });
  return router;
}
