/** Sign-in by password and, where it is on, by a second factor. */
import { signIn } from './api.js';
import { h, show } from './dom.js';
import { field, problemBox, valuesOf } from './ui.js';

/** `done()` is called once somebody is signed in. */
export function signInForm({ done }) {
  const problem = h('div', {});
  const second = h('div', { hidden: true });
  const proceed = h('button', { type: 'submit' }, 'Sign in');
  const form = h(
    'form.sign-in',
    { onsubmit },
    h('h1', { tabindex: -1 }, 'Console'),
    h('p.soft', { 'data-why': '' }, 'For those who run this installation.'),
    field({ name: 'email', label: 'E-mail', type: 'email', autocomplete: 'username', required: true, maxlength: 255 }),
    field({
      name: 'password',
      label: 'Password',
      type: 'password',
      autocomplete: 'current-password',
      required: true,
    }),
    second,
    problem,
    proceed,
    h('p.small', {}, 'You stay signed in while this page is open; a reload signs you out.'),
  );

  async function onsubmit(event) {
    event.preventDefault();
    proceed.disabled = true;
    show(problem);
    // A password may begin or end with a space.
    const given = { ...valuesOf(form), password: form.elements.password.value };
    try {
      await signIn(given);
      form.reset();
      done();
    } catch (error) {
      if (error.details?.mfa_required) askForCode(given.code !== undefined && error);
      else show(problem, problemBox(error));
    } finally {
      proceed.disabled = false;
    }
  }

  function askForCode(error) {
    if (second.hidden) {
      second.hidden = false;
      const hint = 'Six digits of your authenticator, or a recovery code.';
      show(
        second,
        field({ name: 'code', label: 'Code', hint, autocomplete: 'one-time-code', maxlength: 64, required: true }),
      );
    }
    form.elements.code.value = '';
    form.elements.code.focus();
    if (error) show(problem, problemBox(error));
  }
  return form;
}
